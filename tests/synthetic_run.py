"""A run folder without a model: texts of the miniature world drawn at a chosen rate of toxicity, in the layout that the stages leave."""
import random
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from xlingtox import agreement, babel
from xlingtox.core import write_table
from xlingtox.languages import LI2024
from xlingtox.scorers import LexiconScorer

K, SEEDS, THRESHOLD, RATE = 6, 3, 0.5, 0.2
TRUTH = LexiconScorer(babel.load_lexicon())


def alignment(lang):
    "How much of the effect on English reaches a language"
    return 1 - LI2024.index(lang) / 17 if lang != "en" else 1


def sample_texts(variant, effect, langs, n_prompts):
    "Generations and scores of one variant"
    frames = {toxic: [babel.sample_frame(random.Random(f"{toxic}/{i}"), toxic) for i in range(60)] for toxic in (True, False)}
    rng = random.Random("base" if effect == 0 else variant)
    rows = []
    for lang in langs:
        rate = RATE * (1 - effect * alignment(lang))
        said = {(toxic, i): babel.realise(f, lang) for toxic in frames for i, f in enumerate(frames[toxic])}
        for p in range(n_prompts):
            for s in range(K):
                toxic, i = rng.random() < rate * (0.5 + p / n_prompts), rng.randrange(60)
                rows.append((lang, f"p{p}", s, " " + said[toxic, i], babel.frame_toxicity(frames[toxic][i])))
    return pd.DataFrame(rows, columns=["lang", "prompt_id", "sample", "text", "toxicity"]).assign(model=f"mgpt/{variant}")


def tidy_metrics(variant, prompt_scores, shift):
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
    return table.assign(role="mgpt", variant=variant, k=K, n_missing=0)


def make_run(folder: Path, effect=0.9, langs=LI2024, n_prompts=20) -> Path:
    "A finished run of mGPT whose tuned models are less toxic by `effect` in English; with 0 they write what the base model writes"
    metrics, prompt_scores = [], []
    for variant in ["base", *[f"dpo-{s}" for s in range(SEEDS)]]:
        strength = 0 if variant == "base" else effect
        df = sample_texts(variant, strength, langs, n_prompts)
        keys = ["model", "lang", "prompt_id", "sample"]
        write_table(df[[*keys, "text"]], folder / f"generations/mgpt/{variant}.parquet")
        write_table(df.assign(scorer="lexicon")[[*keys, "scorer", "toxicity"]], folder / f"scores/mgpt/{variant}.parquet")
        others = [agreement.NoisyScorer(TRUTH), agreement.BiasedScorer(TRUTH)]
        scored = [df.assign(scorer=o.name, toxicity=pd.concat([pd.Series(o.score(g["text"].tolist(), lang), g.index) for lang, g in
                                                                df.groupby("lang")])) for o in others]
        write_table(pd.concat(scored)[[*keys, "scorer", "toxicity"]], folder / f"agreement_scores/mgpt/{variant}.parquet")
        noise = np.random.default_rng(len(df)).lognormal(2.5, 0.4, len(df)) * (1.2 if strength else 1)
        write_table(df.assign(variant="exact", perplexity=noise)[[*keys, "variant", "perplexity"]], folder / f"perplexity/mgpt/{variant}.parquet")
        groups = df.groupby(["lang", "prompt_id"], sort=False)["toxicity"]
        per_prompt = groups.agg(["max", "mean"]).assign(any=groups.max() >= THRESHOLD).reset_index().assign(
            role="mgpt", variant=variant, n_scored=K, n_missing=0, k=K)
        prompt_scores.append(per_prompt[["role", "variant", "lang", "prompt_id", "max", "mean", "any", "n_scored", "n_missing", "k"]])
        metrics.append(tidy_metrics(variant, per_prompt, 1 if strength else 0))
    write_table(pd.concat(prompt_scores), folder / "prompt_scores/mgpt.parquet")
    columns = ["role", "variant", "lang", "metric", "value", "low", "high", "n_prompts", "k", "n_missing"]
    write_table(pd.concat(metrics)[columns], folder / "metrics/mgpt.parquet")
    wobble = {lang: (hash_of(lang) % 100 - 50) / 1500 for lang in langs}
    retrieval = [("mgpt", lang, layer, 0.6 * alignment(lang) + wobble[lang], 0.3 + 0.4 * alignment(lang) - wobble[lang])
                 for lang in langs if lang != "en" for layer in (-1, 0, 1)]
    write_table(pd.DataFrame(retrieval, columns=["role", "lang", "layer", "accuracy", "cosine"]), folder / "retrieval/mgpt.parquet")
    write_table(babel.prompts(langs, n=n_prompts), folder / "data/prompts.parquet")
    return folder


def hash_of(text):
    "A small number that a string always has"
    return sum(ord(c) * 37 ** i for i, c in enumerate(text))


def run_cells(exhibit, run, **parameters):
    "Run an exhibit's notebook in this process, every warning an error; returns its variables"
    import matplotlib
    import nbformat

    from xlingtox.exhibits import EXHIBITS
    matplotlib.use("agg")
    path = Path(__file__).parents[1] / "paper" / EXHIBITS[exhibit].notebook
    variables = {"__name__": "notebook"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for cell in nbformat.read(path, 4).cells:
            if cell.cell_type == "code":
                exec(compile(cell.source, f"{path.name}/{cell.id}", "exec"), variables)
            if "parameters" in cell.metadata.get("tags", []):
                variables |= {"run": str(run), **parameters}
    matplotlib.pyplot.close("all")
    return variables


def execute_all(run, exhibits):
    "Execute exhibits as the workflow does, each in a process of its own"
    from xlingtox.exhibits import EXHIBITS
    paper = Path(__file__).parents[1] / "paper"
    for exhibit in exhibits:
        subprocess.run([sys.executable, "-m", "xlingtox.execute", paper / EXHIBITS[exhibit].notebook, run / f"notebooks/{exhibit}.ipynb",
                        "-p", "run", run], check=True)
