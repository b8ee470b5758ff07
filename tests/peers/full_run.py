"""A run in which every exhibit of the registry is there: verdicts of each kind, tables, and a few small figures that many exhibits share."""
import shutil
from unittest.mock import patch

import matplotlib
import numpy as np
import pandas as pd
from xlingtox.core import read_json, versions, write_json
from xlingtox.papers.claims import verdict
from xlingtox.papers.exhibits import EXHIBITS, save_exhibit
from xlingtox.papers.figures import freeze_layout, set_style
from xlingtox.papers.groups import place
from xlingtox.progress import append_progress

LANGS = ["am", "ar", "de", "en", "es", "hi", "ru", "uk", "zh"]
ROLES = sorted({role for e in EXHIBITS.values() for role in e.roles})


def _heatmap(ax, rng):
    values = rng.normal(2, 6, (9, 9))
    ax.grid(False)
    ax.figure.colorbar(ax.imshow(values, cmap="RdBu", vmin=-14, vmax=14, aspect="auto"))
    for (i, j), value in np.ndenumerate(values):
        ax.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=8)
    ax.set(xticks=range(9), xticklabels=LANGS, yticks=range(9), yticklabels=LANGS, xlabel="evaluated on", ylabel="tuned on")


def _lines(ax, rng):
    for lang in LANGS:
        ax.plot([10, 20, 30, 100], rng.normal(3, 3, 4), marker="o", label=lang)
    ax.set(xlabel="share of the data, %", ylabel="fall in toxicity, points", xscale="log")
    ax.legend(fontsize=8, ncols=3)


def _bars(ax, rng):
    for i, part in enumerate(("zero-shot", "10%", "30%", "all", "one language")):
        ax.bar(np.arange(9) + i / 6, rng.uniform(5, 30, 9), width=1 / 6, label=part)
    ax.set(xticks=np.arange(9) + 0.4, xticklabels=LANGS, ylabel="toxicity, %")
    ax.legend(fontsize=8, ncols=5)


def _points(ax, rng):
    x = rng.uniform(0, 1, 17)
    ax.errorbar(x, 60 * x + rng.normal(0, 8, 17), yerr=5, fmt="o")
    ax.set(xlabel="alignment with English", ylabel="EMT decrease, %")


SHAPES = {"heatmap": (_heatmap, (7.2, 5.2)), "lines": (_lines, (7.2, 4)), "bars": (_bars, (10, 4.4)), "points": (_points, (8, 5))}


def draw(folder):
    "Each kind of figure once, as SVG and PNG"
    import matplotlib.pyplot as plt

    matplotlib.use("agg")
    set_style()
    for stem, (onto, size) in SHAPES.items():
        fig, ax = plt.subplots(figsize=size, layout="constrained")
        onto(ax, np.random.default_rng(len(stem)))
        freeze_layout(fig)
        for kind in ("svg", "png"):
            fig.savefig(folder / f"{stem}.{kind}")
        plt.close(fig)


def shape_of(e):
    "Which kind of figure an exhibit has; none for most tables"
    where = place(e)
    if where:
        return "heatmap" if where.training == "X-FT" else "lines"
    if "/table" in e.name:
        return None
    return "heatmap" if "embeddings between" in e.title or "distances" in e.title.lower() else "bars" if len(e.name) % 2 else "points"


def verdicts_of(e, i):
    "A verdict on each claim: holds, does not, cannot tell, in turn"
    kinds = [(True, "r = 0.586, p = 0.0176 over 9 languages"), (False, "2 of 9 languages: de en; mean -0.4 [-2.1, 1.3] points"),
             (None, "two of nine languages have scores"), (True, "7 of 9 source languages, Holm p = 0.012")]
    return [verdict(c, e.name, *kinds[(i + j) % 4], "es and de lower toxicity in all languages, up to 16.0 points", (-0.12, 0.84), 9,
                    "The sources are nine, so the test is over nine: the mean over targets of each, by sign flips, Holm over the claims of the table.")
            for j, c in enumerate(e.claims)]


def table_of(e, rng):
    "A nine by nine table with its margin where the paper has one, else a few rows of text and numbers"
    if place(e):
        table = pd.DataFrame(rng.normal(2, 6, (9, 9)).round(2), columns=LANGS).map("{:.2f}".format)
        return table.assign(**{"mean": "1.20 [-0.40, 2.80]"}).assign(tuned=LANGS)[["tuned", *LANGS, "mean"]]
    return pd.DataFrame({"model": ["mGPT", "BLOOM-1.7B"], "EMT before": ["0.53 [0.51, 0.55]", "0.41 [0.40, 0.43]"],
                         "EMT after": ["0.21 [0.20, 0.23]", "0.30 [0.28, 0.31]"], "prompt": ["you are good.", "أنت جيد."]})


def write_notebook(path, name):
    "An executed notebook of an exhibit's size"
    frame = {"output_type": "execute_result", "execution_count": 1, "metadata": {},
             "data": {"text/html": pd.DataFrame(np.ones((5, 6))).to_html(), "text/plain": "a frame"}}
    cells = [{"cell_type": "markdown", "id": "title", "metadata": {}, "source": f"# {name}\n\nWhat it shows, and $x_1$ of it."}]
    for i in range(6):
        cells += [{"cell_type": "markdown", "id": f"m{i}", "metadata": {}, "source": "One idea at a time."},
                  {"cell_type": "code", "id": f"c{i}", "metadata": {}, "execution_count": 1, "outputs": [frame],
                   "source": f"frame = load({i}, {name!r})\nframe.groupby('lang').mean()\n" * 5}]
    write_json({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, path)


def add_exhibit(run, name, i, figures):
    "What the workflow leaves of an exhibit; `figures` is a folder with those of `draw`"
    e, rng, stem = EXHIBITS[name], np.random.default_rng(i), name.split("/")[1]
    table, shape = table_of(e, rng), shape_of(e)
    shown = {} if shape and not place(e) else {stem + "_values": table}
    folder = save_exhibit(run, name, f"{e.title}. Bars: 95% bootstrap intervals over prompts. The paper reports the cells in grey.", {"data": table}, "lexicon",
                          "prompt as in the text; empty completions scored as they are", {}, shown, verdicts_of(e, i), ["9 languages, 100 texts each"],
                          f"A {shape} of nine languages by nine, drawn for this test. The mean is 1.2 points, and the interval crosses zero.")
    if shape:
        for kind in ("svg", "png"):
            shutil.copyfile(figures / f"{shape}.{kind}", folder / f"{stem}.{kind}")
        write_json(read_json(folder / "exhibit.json") | {"figures": [stem]}, folder / "exhibit.json")
    write_notebook(run / f"notebooks/{name}.ipynb", name)
    append_progress(run, event="finished", job=name, seconds=2.0)


def make_full_run(run, names=tuple(EXHIBITS)):
    "A run folder with these exhibits of the registry"
    run.mkdir(parents=True, exist_ok=True)
    if not (run / "profile.json").exists():
        write_json({"models": {role: {"model": f"mini:{role}"} for role in ROLES}}, run / "profile.json")
    figures = run / ".figures"
    figures.mkdir()
    if any(shape_of(EXHIBITS[name]) for name in names):
        draw(figures)
    with patch("xlingtox.core.versions", return_value=versions()):  # which asks the disk a thousand times
        for i, name in enumerate(names):
            add_exhibit(run, name, i, figures)
    shutil.rmtree(figures)
    return run
