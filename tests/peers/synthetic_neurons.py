"""A run folder of the paper on targeted neurons without a model: made-up AUROCs, answers, abilities, instructions of the miniature's world."""
from pathlib import Path

import pandas as pd
from xlingtox import babel
from xlingtox.core import write_json, write_manifest, write_table
from xlingtox.languages import NEURONFT2025, NEURONFT2025_OUT
from xlingtox.papers.neuronft2025 import toy
from xlingtox.papers.neuronft2025.methods import ROLES


def write(folder, kind, role, table, settings=None):
    write_table(table, folder / f"{kind}/{role}.parquet")
    write_manifest(folder / f"{kind}/{role}.parquet.manifest.json", {}, settings or {}, 0, 1.0)


def make_neurons(folder: Path, truth_of=lambda role: toy.Truth(), roles=tuple(ROLES), langs=NEURONFT2025, out=NEURONFT2025_OUT, n=40, known=True,
                 seed=0) -> Path:
    "What the stages of neuron tuning leave of each role; `truth_of` a role says what is true of it"
    scopes = {"languages": list(langs), "out_of_scope": list(out)}
    for i, role in enumerate(roles):
        truth, its = truth_of(role), seed + i
        aurocs, thresholds = toy.made_up_aurocs(truth, langs, 600, its)
        how = scopes | {"modules": "linear", "pooling": "max", "auroc": 0.5}
        for kind, table in {"aurocs": aurocs, "thresholds": thresholds, "mlp_aurocs": toy.made_up_mlp(truth, langs, known=known, seed=its)}.items():
            write(folder, kind, role, table, how)
        write(folder, "answered", role, toy.made_up_answers(truth, role, langs, out, n, seed=its), scopes | {"scorer": "lexicon:babel", "min_count": 5})
        write(folder, "abilities", role, toy.made_up_abilities(truth, role, langs, seed=its), scopes)
        write(folder, "tunings", role, toy.made_up_tunings(role, langs, 600))
    pairs, steps = toy.made_up_instructions(langs)
    write(folder, "instructions", "all", pairs, {"scorer": "lexicon:babel", "responder": "babel"})
    write(folder, "instruction_steps", "all", steps)
    write_table(babel.labelled(list(langs), 4), folder / "data/detection.parquet")
    write_json({"models": {role: {"model": f"mini:{role}"} for role in roles}}, folder / "profile.json")
    return folder


def edit(run, kind, role, change):
    path = run / f"{kind}/{role}.parquet"
    write_table(change(pd.read_parquet(path)), path)
