"""The real stages, in order, on a random model of a few thousand weights: they fit together, whatever the numbers."""
import json
import os
import subprocess
import sys

import pandas as pd
import pytest

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
models:
  mgpt: {model: ./model, seeds: [0, 1]}
judge: {model: ./model}
dpo: {max_steps: 4, batch_size: 8, eval_steps: 2, eval_share: 0.1}
generation: {k: 3, max_new_tokens: 6}
scorer: ngram:train
metrics: {n_resamples: 50}
"""


def random_model(folder):
    "A GPT-2 of random weights with a tokenizer of babel"
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from xlingtox import babel, models, pretrain

    tokenizer = pretrain.train_tokenizer(babel.corpus(300)["text"].tolist(), 700)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_positions=256, n_embd=16, n_layer=2, n_head=2,
                                       bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id))
    models.save(model, tokenizer, folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    random_model(folder / "model")
    (folder / "tiny.yaml").write_text(PROFILE)
    env = {**os.environ, "XLINGTOX_CACHE": str(folder / "cache")}
    done = subprocess.run([sys.executable, "-m", "xlingtox.cli", "reproduce", "--profile", "tiny.yaml"], cwd=folder, env=env,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr + (folder / "runs/tiny/workflow.log").read_text()[-3000:]
    return folder / "runs/tiny"


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
    models = [p.parent for p in run.glob("models/**/*.safetensors")]
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


def test_exhibits_are_quick(run):
    records = [json.loads(line) for line in (run / "progress.jsonl").read_text().splitlines()]
    seconds = {r["job"]: r["seconds"] for r in records if r["event"] == "finished"}
    print(seconds)
    assert {"li2024/fig1", "li2024/fig4"} <= set(seconds)
