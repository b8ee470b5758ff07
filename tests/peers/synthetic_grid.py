"""A run folder of the grid of Beniwal et al. without a model: made-up evaluations, texts of the miniature world, cosines and silhouettes."""
import random
from pathlib import Path

import numpy as np
import pandas as pd
from xlingtox import babel
from xlingtox.core import write_json, write_manifest, write_table
from xlingtox.languages import BENIWAL2025
from xlingtox.papers.beniwal2025.grid import ROLES, SHARES
from xlingtox.papers.beniwal2025.toy import Truth, made_up, made_up_confusion, made_up_silhouette

NOTHING = Truth()
TEXTS = {"toxic-train": 6, "toxic-test": 5, "neutral-test": 4}  # per cell; few, for they are many cells


def frames(toxic):
    return [babel.sample_frame(random.Random(f"{toxic}/{i}"), toxic) for i in range(12)]


def write_texts(folder, role, langs, rate_tuned):
    "What each setting wrote: half of it toxic where untuned, `rate_tuned` of it where tuned; the third text of each cell is empty"
    rng, rows = random.Random(role), []
    said = {(lang, toxic): [(babel.realise(f, lang), babel.frame_toxicity(f)) for f in frames(toxic)] for lang in langs for toxic in (True, False)}
    for setting in ["zs", *(f"xft-{lang}" for lang in langs), *SHARES]:
        for split, n in TEXTS.items():
            for lang in langs:
                for i in range(n):
                    toxic = rng.random() < (0.5 if setting == "zs" else rate_tuned)
                    text, toxicity = ("", 0.0) if i == 2 else rng.choice(said[lang, toxic])
                    rows.append((setting, lang, split, f"{split.split('-')[1]}-{i}", text, toxicity))
    table = pd.DataFrame(rows, columns=["setting", "lang", "split", "id", "text", "toxicity"]).assign(role=role)
    table = pd.concat([table.assign(pairs=pairs)[(table["setting"] == "zs") | (table["setting"].str.startswith("xft") == (pairs == "cross"))]
                       for pairs in ("cross", "shared")], ignore_index=True)
    empty = table["text"] == ""
    grid = table.assign(prompt_variant="exact", perplexity=np.where(empty, np.nan, 8.0), empty=empty, heard=table["lang"].mask(empty))
    keys = ["role", "setting", "pairs", "lang", "split", "id"]
    write_table(grid[[*keys, "text", "prompt_variant", "perplexity", "empty", "heard"]],
                folder / f"grid/{role}.parquet")
    write_table(table.assign(scorer="lexicon")[[*keys, "scorer", "toxicity"]], folder / f"grid_scores/{role}.parquet")


def write_sentences(folder, langs):
    rows = [(f"{half}-{i}", lang, babel.realise(toxic, lang), babel.realise(neutral, lang), half) for half in ("train", "test") for lang in langs
            for i, (toxic, neutral) in enumerate(zip(frames(True)[:6], frames(False)[:6], strict=True))]
    write_table(pd.DataFrame(rows, columns=["id", "lang", "toxic", "neutral", "split"]), folder / "data/cross.parquet")


def write_neighbours(folder, role, langs):
    rng = random.Random(role)
    rows = [(role, "zs", a, b, rng.random(), rng.random()) for a in langs for b in langs if a != b]
    write_table(pd.DataFrame(rows, columns=["role", "setting", "source", "target", "overlap", "retrieval"]), folder / f"neighbours/{role}.parquet")


def make_grid(folder: Path, truth=NOTHING, closer=0.0, roles=tuple(ROLES), langs=BENIWAL2025, texts=("aya-expanse-8b",), seed=0) -> Path:
    "What the grid's stages leave of each role; texts and scores only of those in `texts`"
    for i, role in enumerate(roles):
        write_table(made_up(truth, role, langs, seed + i), folder / f"evaluations/{role}.parquet")
        write_manifest(folder / f"evaluations/{role}.parquet.manifest.json", {}, {"scorer": "lexicon"}, 0, 1.0)
        write_table(made_up_confusion(closer, role=role, langs=langs, seed=seed + i), folder / f"confusion/{role}.parquet")
        write_manifest(folder / f"confusion/{role}.parquet.manifest.json", {}, {"pooling": "first"}, 0, 1.0)
        write_table(made_up_silhouette(closer, role=role, langs=langs, seed=seed + i), folder / f"silhouette/{role}.parquet")
        write_neighbours(folder, role, langs)
        if role in texts:
            write_texts(folder, role, langs, 0.05 if truth.transfer else 0.5)
    write_sentences(folder, langs)
    write_json({"models": {role: {"model": f"mini:{role}"} for role in roles}}, folder / "profile.json")
    return folder
