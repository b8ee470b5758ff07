"""The real stages, in order, on a random model of a few thousand weights: they fit together, whatever the numbers."""
import json
import shutil

import pandas as pd
import pytest

from desk import Desk

pytestmark = pytest.mark.slow

PROFILE = """
extends: mini
name: tiny
title: A random model
languages: [en, de, es, ru, zh, ko]
data:
  corpus: {source: "babel:corpus", n: 50}
  prompts: {n: 5}
  preference: {n: 60}
  multiway: {n: 6}
  labelled: {source: "babel:labelled", languages: [en, de, es, ru, zh, ko], n: 40}
models: {mgpt: {model: ./model, seeds: [0, 1], variants: null}}
capability: null
judge: {model: ./model}
dpo: {max_steps: 4, batch_size: 8, eval_steps: 2, eval_share: 0.1}
generation: {k: 3, max_new_tokens: 6}
scorer: ngram:train
metrics: {n_resamples: 50}
sites: {n_potential: 10}
intervention: {offsets: [-1, 1], n_controls: 1, n_prompts: 2}
methods: null
"""

REAL = """
extends: realtext
name: real
models:
  mgpt: {model: ./model, seeds: [0]}
judge: {model: ./model}
dpo: {max_steps: 2, batch_size: 4, eval_steps: 1}
generation: {k: 2, max_new_tokens: 4}
metrics: {n_resamples: 20}
sites: {n_potential: 10}
"""


def random_model(folder):
    "A GPT-2 of random weights with a tokenizer of babel"
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel
    from xlingtox import babel, models
    from xlingtox.models import pretrain

    tokenizer = pretrain.train_tokenizer(babel.corpus(300)["text"].tolist(), 700)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_positions=256, n_embd=16, n_layer=2, n_head=2,
                                       bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id))
    models.save(model, tokenizer, folder)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    "A desk with the finished run"
    desk = Desk(tmp_path_factory.mktemp("tiny"), "tiny")
    random_model(desk.folder / "model")
    (desk.folder / "tiny.yaml").write_text(PROFILE)
    code, out, err = desk.call("reproduce", "--profile", "tiny.yaml")
    assert code == 0, out + err + (desk.run / "workflow.log").read_text()[-3000:]
    return desk


@pytest.fixture(scope="module")
def run(desk):
    return desk.run


COLUMNS = {
    "data/prompts": "id lang text", "data/multiway": "id lang text", "data/labelled": "id lang text toxic",
    "generations/mgpt/base": "model lang prompt_id sample text", "scores/mgpt/dpo-1": "model lang prompt_id sample scorer toxicity",
    "perplexity/mgpt/dpo-0": "model lang prompt_id sample variant perplexity", "retrieval/mgpt": "role lang layer accuracy cosine",
    "prompt_scores/mgpt": "role variant lang prompt_id max mean any n_scored n_missing k",
    "metrics/mgpt": "role variant lang metric value low high n_prompts k n_missing",
}


@pytest.mark.parametrize("name", COLUMNS)
def test_tables_have_their_columns(run, name):
    table = pd.read_parquet(run / f"{name}.parquet")
    assert set(COLUMNS[name].split()) <= set(table.columns) and len(table)


def test_every_artifact_has_a_manifest(run):
    tables = [p for kind in ("data", "generations", "scores", "perplexity", "retrieval", "prompt_scores", "metrics")
              for p in (run / kind).rglob("*.parquet")]
    models = [p.parent for p in run.glob("models/*/*/*.safetensors") if "scorer" not in p.parts] + [run / "models/scorer"]  # one job trains all of these
    assert len(tables) == 5 + 3 * 3 + 3 and len(models) == 5
    for path in tables + models:
        manifest = json.loads(path.with_name(f"{path.name}.manifest.json").read_text())
        assert {"inputs", "parameters", "seed", "versions", "hardware", "seconds"} <= set(manifest), path


def test_sizes(run):
    generations = pd.read_parquet(run / "generations/mgpt/dpo-0.parquet")
    assert len(generations) == 6 * 5 * 3 and not list(run.rglob("*.parts"))
    metrics = pd.read_parquet(run / "metrics/mgpt.parquet")
    assert set(metrics["metric"]) == {"emt", "toxprob", "avgtox", "perplexity", "dist1", "dist2", "dist3"}
    assert set(metrics["variant"]) == {"base", "dpo-0", "dpo-1"} and set(metrics["lang"]) == {"en", "de", "es", "ru", "zh", "ko"}


def tables(run) -> dict[str, bytes]:
    "Every table of a run: the artifacts, and the tidy data of the exhibits"
    kinds = ("data", "generations", "scores", "perplexity", "retrieval", "prompt_scores", "metrics", "exhibits")
    return {str(p.relative_to(run)): p.read_bytes() for kind in kinds for p in (run / kind).rglob("*") if p.suffix in (".parquet", ".csv")}


def test_killed_in_every_stage_the_result_is_the_same(desk, tmp_path):
    again = Desk(tmp_path, "tiny")
    shutil.copytree(desk.folder / "model", tmp_path / "model")
    (tmp_path / "tiny.yaml").write_text(PROFILE)
    left = {"tune mgpt/dpo-0": 0.8, "generate mgpt/dpo-1": 0.4, "score mgpt/dpo-1": 0.3, "li2024/fig1": 0.7, "perplexity mgpt/base": 0.4}
    while left:  # in the order in which the run comes to them
        job = again.kill_in_one_of(left, "reproduce", "--profile", "tiny.yaml", "--jobs", "1")
        assert again.survivors() == [], job
        del left[job]
    code, out, err = again.call("reproduce", "--profile", "tiny.yaml")
    assert code == 0, out + err
    expected, found = tables(desk.run), tables(again.run)
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []


def test_real_sentences_pass_through_the_same_stages(desk, real_data):
    (desk.folder / "real.yaml").write_text(REAL)
    code, out, err = desk.call("reproduce", "--profile", "real.yaml", "--data", str(real_data))
    assert code == 0, out + err
    generations = pd.read_parquet(desk.folder / "runs/real/generations/mgpt/base.parquet")
    assert generations["lang"].nunique() == 17 and generations.groupby("lang")["prompt_id"].nunique().eq(200).all()


def test_with_zero_steps_of_tuning_the_claims_do_not_hold(desk):
    "Every stage runs, the tuned models write what the base model writes, and the report says that nothing was found"
    profile = PROFILE.replace("name: tiny", "name: zero").replace("max_steps: 4", "max_steps: 0")
    (desk.folder / "zero.yaml").write_text(profile.replace("ngram:train", "lexicon:babel"))  # which may judge every language
    code, out, err = desk.call("reproduce", "--profile", "zero.yaml", "--only", "li2024/fig1", "--only", "li2024/fig4")
    assert code == 0, out + err
    run = desk.folder / "runs/zero"
    texts = {v: pd.read_parquet(run / f"generations/mgpt/{v}.parquet")["text"].tolist() for v in ("base", "dpo-0", "dpo-1")}
    assert texts["dpo-0"] == texts["base"] == texts["dpo-1"]
    verdicts = [v for name in ("fig1", "fig4") for v in json.loads((run / f"exhibits/li2024/{name}/exhibit.json").read_text())["verdicts"]]
    assert {v["claim"] for v in verdicts} == {"L1", "L13", "L14"} and not any(v["holds"] for v in verdicts)
    assert [v["holds"] for v in verdicts if v["claim"] == "L1"] == [False]
