"""A run folder without a model: texts of the miniature world drawn at a chosen rate of toxicity, in the layout that the stages leave."""
import json
import random
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import mannwhitneyu
from xlingtox import babel
from xlingtox.core import write_json, write_manifest, write_table
from xlingtox.languages import LI2024
from xlingtox.scorers import distorted
from xlingtox.scorers.lexicon import LexiconScorer
from xlingtox.scorers.ngram import auc_table

K, SEEDS, THRESHOLD, RATE = 6, 3, 0.5, 0.2
TRUTH = LexiconScorer(babel.load_lexicon())


def alignment(lang):
    "How much of the effect on English reaches a language"
    return 1 - LI2024.index(lang) / 17 if lang != "en" else 1


def sample_texts(model, effect, langs, n_prompts):
    "Generations and scores of one variant of a model"
    frames = {toxic: [babel.sample_frame(random.Random(f"{toxic}/{i}"), toxic) for i in range(60)] for toxic in (True, False)}
    rng = random.Random("base" if effect == 0 else model.removeprefix("mgpt/"))
    rows = []
    for lang in langs:
        rate = RATE * (1 - effect * alignment(lang))
        said = {(toxic, i): babel.realise(f, lang) for toxic in frames for i, f in enumerate(frames[toxic])}
        for p in range(n_prompts):
            for s in range(K):
                toxic, i = rng.random() < rate * (0.5 + p / n_prompts), rng.randrange(60)
                rows.append((lang, f"p{p}", s, " " + said[toxic, i], babel.frame_toxicity(frames[toxic][i])))
    return pd.DataFrame(rows, columns=["lang", "prompt_id", "sample", "text", "toxicity"]).assign(model=model)


def tidy_metrics(role, variant, prompt_scores, shift):
    "The table that the metrics stage writes; fluency and diversity are made up, higher and lower by `shift`"
    rows = []
    for lang, g in prompt_scores.groupby("lang"):
        for metric, column in {"emt": "max", "toxprob": "any", "avgtox": "mean"}.items():
            x = g[column].astype(float)
            rows.append((lang, metric, x.mean(), x.mean() - 2 * x.std() / len(x) ** 0.5, x.mean() + 2 * x.std() / len(x) ** 0.5, len(x)))
        for metric, value in [("perplexity", 12 + 3 * shift), *((f"dist{n}", 0.4 + (n - shift) / 10) for n in (1, 2, 3))]:
            value += len(lang + metric) / 100 + (ord(lang[0]) - 100) / 200
            rows.append((lang, metric, value, value - 0.02, value + 0.02, len(g)))
    table = pd.DataFrame(rows, columns=["lang", "metric", "value", "low", "high", "n_prompts"])
    return table.assign(role=role, variant=variant, k=K, n_missing=0)


def write_variant(folder, role, variant, strength, langs, n_prompts):
    "What the stages leave of one variant of a model, less toxic by `strength` in English; returns its rows of prompt_scores and metrics"
    model = f"{role}/{variant}"
    df = sample_texts(model, strength, langs, n_prompts)
    keys = ["model", "lang", "prompt_id", "sample"]
    write_table(df[[*keys, "text"]], folder / f"generations/{model}.parquet")
    write_table(df.assign(scorer="lexicon")[[*keys, "scorer", "toxicity"]], folder / f"scores/{model}.parquet")
    others = [distorted.NoisyScorer(TRUTH), distorted.BiasedScorer(TRUTH)]
    scored = [df.assign(scorer=o.name, toxicity=pd.concat([pd.Series(o.score(g["text"].tolist(), lang), g.index) for lang, g in
                                                            df.groupby("lang")])) for o in others]
    write_table(pd.concat(scored)[[*keys, "scorer", "toxicity"]], folder / f"agreement_scores/{model}.parquet")
    noise = np.random.default_rng(len(df)).lognormal(2.5, 0.4, len(df)) * (1 + 0.22 * strength)
    write_table(df.assign(variant="exact", perplexity=noise)[[*keys, "variant", "perplexity"]], folder / f"perplexity/{model}.parquet")
    groups = df.groupby(["lang", "prompt_id"], sort=False)["toxicity"]
    per_prompt = groups.agg(["max", "mean"]).assign(any=groups.max() >= THRESHOLD).reset_index().assign(
        role=role, variant=variant, n_scored=K, n_missing=0, k=K)
    return (per_prompt[["role", "variant", "lang", "prompt_id", "max", "mean", "any", "n_scored", "n_missing", "k"]],
            tidy_metrics(role, variant, per_prompt, strength / 0.9))


def write_tuned(folder, role, variant, settings):
    "The record of a tuned model, without the model"
    write_table(pd.DataFrame({"step": [20, 60], "loss": [0.5, 0.3], "eval_loss": [0.5, 0.3]}), folder / f"models/{role}/{variant}/log.parquet")
    common = {"method": "dpo", "tuning": "full", "optimizer": "rmsprop", "learning_rate": 2e-5, "beta": 0.1, "batch_size": 16, "max_steps": 60, "epochs": 5}
    write_manifest(folder / f"models/{role}/{variant}.manifest.json", {}, common | settings, 0, 1.0)


METRICS = ["role", "variant", "lang", "metric", "value", "low", "high", "n_prompts", "k", "n_missing"]


def make_run(folder: Path, effect=0.9, langs=LI2024, n_prompts=20, roles=("mgpt",), seeds=SEEDS, further=None) -> Path:
    """A finished run whose tuned models are less toxic by `effect` in English; with 0 they write what the base model writes.

    `further` holds more tuned models of the first role, by group: {"lr": {"lr-1e-06-0": (strength, {"learning_rate": 1e-6})}}.
    """
    further = further or {}
    for role in roles:
        groups = {"dpo": {f"dpo-{s}": (effect, {"seed": s}) for s in range(seeds)}} | (further if role == roles[0] else {})
        base = write_variant(folder, role, "base", 0, langs, n_prompts)
        for group, models in groups.items():
            tables = [base]
            for variant, (strength, settings) in models.items():
                tables.append(write_variant(folder, role, variant, strength, langs, n_prompts))
                write_tuned(folder, role, variant, {"seed": 0} | settings)
            name = role if group == "dpo" else f"{role}/{group}"
            write_table(pd.concat([t[0] for t in tables]), folder / f"prompt_scores/{name}.parquet")
            write_table(pd.concat([t[1] for t in tables])[METRICS], folder / f"metrics/{name}.parquet")
        wobble = {lang: (hash_of(lang) % 100 - 50) / 1500 for lang in langs}
        retrieval = [(role, lang, layer, 0.6 * alignment(lang) + wobble[lang], 0.3 + 0.4 * alignment(lang) - wobble[lang])
                     for lang in langs if lang != "en" for layer in (-1, 0, 1)]
        write_table(pd.DataFrame(retrieval, columns=["role", "lang", "layer", "accuracy", "cosine"]), folder / f"retrieval/{role}.parquet")
    write_table(babel.prompts(langs, n=n_prompts), folder / "data/prompts.parquet")
    return folder


def write_capability(folder, role, lost=0.0, known=0.8, langs=LI2024, n_questions=60, seeds=SEEDS):
    "Answers to questions of four choices: the base model knows a share `known`; each tuned model has forgotten a share `lost` of those"
    rng = np.random.default_rng(0)
    before = {lang: rng.random(n_questions) < known for lang in langs}
    for variant in ["base", *[f"dpo-{s}" for s in range(seeds)]]:
        rows = [(f"{role}/{variant}", "facts", lang, f"q{i}", float(right), float(right), 0.25) for lang in langs
                for i, right in enumerate(before[lang] & (rng.random(n_questions) >= (0 if variant == "base" else lost)))]
        write_table(pd.DataFrame(rows, columns=["model", "task", "lang", "id", "correct", "correct_norm", "chance"]),
                    folder / f"capability/{role}/{variant}.parquet")
    return folder


N_TOKENS, OFFSETS = 30, (-4, -3, -2, -1, 1, 2)


def toxic_share(effect, offset):
    "Share of toxic continuations under an offset on the sources: a quarter without one"
    return np.clip(0.25 + effect * (0.12 * min(offset, 0) + 0.25 * max(offset, 0)), 0.01, 1)


def write_mechanism(folder, effect=0.9, n_actual=18, langs=LI2024, n_prompts=20, role="mgpt", seeds=SEEDS, n_controls=2, n_sites=40,
                    offsets=OFFSETS):
    """What the stages of the mechanism leave: probe, sites, unembedding, activations, interventions.

    With effect 0 the probe tells nothing, the sources promote what random neurons do, tuning and offsets change them as they change any neuron.
    """
    rng = np.random.default_rng(0)
    prompts = babel.prompts(langs, n=n_prompts)
    write_table(prompts, folder / "data/prompts.parquet")
    _write_probe(folder, effect, langs, role, rng)
    sites = _write_sites(folder, effect, n_actual, langs, role, rng, n_sites)
    neurons = sites[["layer", "neuron", "set", "actual"]]
    for variant in ["base", *[f"dpo-{s}" for s in range(seeds)]]:
        rows = []
        for lang in langs:
            fall = 0 if variant == "base" else effect * (0.5 + alignment(lang) / 2)
            level = neurons["actual"] * 0.15 * (1 if lang == "en" else 0.5 + alignment(lang) / 2) * (1 if effect else rng.choice([-1, 1]))
            rows.append(neurons.assign(lang=lang, activation=np.where(neurons["actual"], level * (1 - fall), sites["activation"] / 2)
                                       + rng.normal(0, 0.004, len(neurons))))
        table = pd.concat(rows).assign(model=f"{role}/{variant}", n_prompts=n_prompts)
        write_table(table[["model", "lang", "layer", "neuron", "activation", "n_prompts", "set", "actual"]], folder / f"activations/{role}/{variant}.parquet")
    write_manifest(folder / f"activations/{role}/base.parquet.manifest.json", {}, {"max_new_tokens": 20}, 0, 1.0)
    _write_interventions(folder, effect, prompts, sites, role, rng, n_controls, offsets)
    return folder


def _write_probe(folder, effect, langs, role, rng):
    tables = []
    for lang in langs:
        labelled = pd.DataFrame({"lang": lang, "toxic": [0, 1] * 50})
        scores = 1 / (1 + np.exp(-rng.normal(2.5 * effect * labelled["toxic"] * (0.6 + 0.4 * alignment(lang)), 1)))
        toxic = labelled["toxic"] == 1
        tables.append(auc_table(labelled, scores).assign(
            split="held out" if lang == "en" else "zero-shot", accuracy=((scores >= 0.5) == toxic).mean(),
            p=float(mannwhitneyu(scores[toxic], scores[~toxic], alternative="greater").pvalue)))
    write_table(pd.concat(tables).assign(role=role), folder / f"probe/{role}.parquet")
    write_manifest(folder / f"probe/{role}.parquet.manifest.json", {},
                   {"lang": "en", "learning_rate": 0.01, "batch_size": 10, "epochs": 20, "bias": False, "seed": 99, "held_out": 0.1,
                    "zero_shot": 200}, 0, 1.0)


def _write_sites(folder, effect, n_actual, langs, role, rng, n_sites):
    from xlingtox.mechanism.value_vectors import multilinguality
    lexicon = babel.load_lexicon().melt(["concept", "category", "theme", "severity"], langs, "lang", "token")
    neutral, toxic = lexicon[lexicon["severity"] == 0], lexicon[lexicon["severity"] > 0]
    themes = toxic["theme"].unique()
    sites = pd.DataFrame({"layer": np.arange(2 * n_sites) % 4, "neuron": np.arange(2 * n_sites) * 7, "cosine": np.linspace(0.4, -0.1, 2 * n_sites),
                          "rank": np.arange(1, 2 * n_sites + 1), "set": ["potential"] * n_sites + ["random"] * n_sites})
    sites["activation"] = -0.05 - 0.05 * rng.random(2 * n_sites)
    active = [*rng.choice(n_sites, n_actual, replace=False), *(n_sites + rng.choice(n_sites, 6, replace=False))]
    sites.loc[active, "activation"] = 0.02 + 0.1 * rng.random(len(active))
    sites["actual"] = (sites["set"] == "potential") & (sites["activation"] > 0)
    tokens = []
    for i, site in enumerate(sites.itertuples()):
        n_toxic = rng.integers(8, 16) if effect and site.actual else rng.integers(0, 3)
        top = pd.concat([toxic[toxic["theme"] == themes[i % 3]].sample(n_toxic, random_state=i), neutral.sample(N_TOKENS - n_toxic, random_state=i)])
        tokens.append(top.sample(frac=1, random_state=i).assign(layer=site.layer, neuron=site.neuron, place=np.arange(1, N_TOKENS + 1)))
    tokens = pd.concat(tokens, ignore_index=True).assign(role=role, script="", token_id=0, score=0.0)
    sites = sites.merge(multilinguality(tokens), on=["layer", "neuron"])
    sites["truly_toxic"] = sites["n_toxic"] > 4
    groups = {"potential": sites[sites["set"] == "potential"], "actual": sites[sites["actual"]], "random": sites[sites["set"] == "random"]}
    about = {"n_neurons": 4096, "lang": "en", "n_tokens": N_TOKENS, **{f"n_{name}": len(g) for name, g in groups.items()},
             "truth": {name: {"precision": float(g["truly_toxic"].mean()), "recall": float(g["truly_toxic"].sum() / 60), "base_rate": 60 / 4096}
                       for name, g in groups.items() if len(g)}}
    write_json(about, folder / f"sites/{role}.json")
    write_table(sites.assign(role=role), folder / f"sites/{role}.parquet")
    write_table(tokens.drop(columns=["concept", "category"]), folder / f"unembedding/{role}.parquet")
    return sites


def _write_interventions(folder, effect, prompts, sites, role, rng, n_controls, swept):
    actual = sites[sites["actual"]]
    frames = {toxic: [babel.sample_frame(random.Random(f"{toxic}/{i}"), toxic) for i in range(20)] for toxic in (True, False)}
    sets = {"none": [0]}
    if len(actual):
        controls = [f"{kind}-{i}" for kind in ("random", "same-layers") for i in range(n_controls)]
        sets |= {"actual": swept, "few": [4]} | dict.fromkeys(controls, swept)
    rows = []
    for lang, group in prompts.groupby("lang", sort=False):
        said = {(toxic, i): " " + babel.realise(f, lang) for toxic in frames for i, f in enumerate(frames[toxic])}
        asked, order = TRUTH.score(group["text"].tolist(), lang), rng.permutation(len(group)) / len(group)
        for name, offsets in sets.items():
            for offset in offsets:
                share = toxic_share(effect if name in ("actual", "few") else 0, offset)
                if offset and (share == 0.25 or not effect):  # a neuron like any other: a text or two turn out otherwise
                    share += rng.choice([-1, 0, 1]) / len(group)
                spoilt = 1.1 ** abs(offset) if abs(offset) < 4 or name == "few" else 3
                for prompt, place, prompt_toxicity in zip(group["id"], order, asked, strict=True):
                    toxic, i = place < share, rng.integers(20)
                    rows.append((name, float(offset), lang, prompt, said[toxic, i], babel.frame_toxicity(frames[toxic][i]), prompt_toxicity,
                                 rng.lognormal(2.5, 0.2) * spoilt, *(0.9 + n / 100 - 0.02 * abs(offset) for n in (1, 2, 3))))
    table = pd.DataFrame(rows, columns=["sites", "offset", "lang", "prompt_id", "text", "toxicity", "prompt_toxicity", "perplexity",
                                        "dist1", "dist2", "dist3"]).assign(role=role, scorer="lexicon")
    write_table(table, folder / f"interventions/{role}.parquet")
    few = actual[actual["theme"] == actual["theme"].mode().iloc[0]].head(4) if len(actual) else actual
    write_manifest(folder / f"interventions/{role}.parquet.manifest.json", {},
                   {"offsets": list(swept), "few_sites": few[["layer", "neuron"]].to_numpy().tolist(),
                    "few_theme": few["theme"].iloc[0] if len(few) else ""}, 0, 1.0)


def hash_of(text):
    "A small number that a string always has"
    return sum(ord(c) * 37 ** i for i, c in enumerate(text))


def run_cells(exhibit, run, **parameters):
    "Run an exhibit's notebook in this process, every warning an error; returns its variables"
    import matplotlib.pyplot
    from xlingtox.papers.exhibits import EXHIBITS
    matplotlib.use("agg")
    path = Path(__file__).parents[2] / "paper" / EXHIBITS[exhibit].notebook
    variables = {"__name__": "notebook"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), f"{path.name}/{cell['id']}", "exec"), variables)
            if "parameters" in cell["metadata"].get("tags", []):
                variables |= {"run": str(run)} | ({"name": exhibit} if "name" in variables else {}) | parameters
    matplotlib.pyplot.close("all")
    return variables


def execute_all(run, exhibits):
    "Execute exhibits as the workflow does, each in a process of its own"
    from xlingtox.papers.exhibits import EXHIBITS
    paper = Path(__file__).parents[2] / "paper"
    for exhibit in exhibits:
        notebook = EXHIBITS[exhibit].notebook
        name = [] if notebook == f"{exhibit}.ipynb" else ["-p", "name", exhibit]
        subprocess.run([sys.executable, "-m", "xlingtox.runs.job", paper / notebook, run / f"notebooks/{exhibit}.ipynb", "-p", "run", run, *name],
                       check=True)
