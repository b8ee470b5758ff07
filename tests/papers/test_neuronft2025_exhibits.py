"""The exhibits of the paper on targeted neurons on made-up runs: what they find, what they say is missing, and that they mask."""
import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from xlingtox import babel
from xlingtox.core import file_digest
from xlingtox.papers.exhibits import EXHIBITS
from xlingtox.papers.neuronft2025.methods import PAPER
from xlingtox.papers.neuronft2025.toy import as_claimed, as_denied

from synthetic_neurons import edit, make_neurons
from synthetic_run import run_cells

MINE = {e.name.split("/")[1]: e for e in EXHIBITS.values() if e.paper == "neuronft2025"}
CLAIMS = {name: e.claims for name, e in MINE.items()}


@pytest.fixture(scope="module")
def claimed(tmp_path_factory):
    return make_neurons(tmp_path_factory.mktemp("claimed"), as_claimed)


@pytest.fixture(scope="module")
def denied(tmp_path_factory):
    return make_neurons(tmp_path_factory.mktemp("denied"), as_denied)


def made(run, name, **parameters):
    run_cells(f"neuronft2025/{name}", run, **parameters)
    return json.loads((run / "exhibits/neuronft2025" / name / "exhibit.json").read_text())


def test_all_ten_are_there():
    assert list(MINE) == ["fig1", "fig2", "fig3", "fig4", "fig5", "table1", "table2", "table3", "table4", "table5"]
    assert all(e.notebook and e.needs and e.roles for e in MINE.values())
    assert {c for claims in CLAIMS.values() for c in claims} == {f"N{i}" for i in range(1, 7)}


@pytest.mark.parametrize("name", MINE)
def test_what_is_true_is_found(claimed, name):
    found = made(claimed, name)
    assert {v["claim"]: v["holds"] for v in found["verdicts"]} == dict.fromkeys(CLAIMS[name], True)
    assert found["footer"] and found["caption"] and found["alt"] != found["caption"]
    assert "nan" not in re.sub(r'"[^"]*finan[^"]*"', "", json.dumps(found).lower())


@pytest.mark.parametrize("name", [name for name in MINE if CLAIMS[name]])
def test_what_is_not_true_is_not(denied, name):
    assert {v["claim"]: v["holds"] for v in made(denied, name)["verdicts"]} == dict.fromkeys(CLAIMS[name], False)


@pytest.mark.parametrize("name", MINE)
def test_an_empty_run_is_not_run(tmp_path, name):
    found = made(tmp_path, name)
    assert found["caption"].startswith("Not run: the run has no ") and found["figures"] == []
    assert {v["holds"] for v in found["verdicts"]} <= {None}


def test_a_model_that_lacks_is_left_out(tmp_path):
    run = make_neurons(tmp_path / "run", as_claimed, roles=("llama3.1-8b",))
    assert {v["claim"]: v["holds"] for v in made(run, "table4")["verdicts"]} == {"N3": True, "N6": None}
    assert made(run, "table2")["verdicts"][0]["holds"] is True and made(run, "fig2")["caption"].startswith("Not run")
    assert made(run, "table2")["tables"] == ["table2", "truth"]


def test_a_small_run_in_few_languages(tmp_path):
    "Three languages tuned on, two not, no method beyond the paper, no truth of neurons"
    run = make_neurons(tmp_path / "run", as_claimed, langs=["en", "de", "zh"], out=["ja", "cs"], known=False)
    for role in ("aya-23-8b", "llama3.1-8b"):
        edit(run, "answered", role, lambda rows: rows[rows["method"].isin(list(PAPER))])
    assert made(run, "table2")["tables"] == ["table2"]
    for name in MINE:
        assert made(run, name)["footer"]
    assert list(pd.read_csv(run / "exhibits/neuronft2025/table3/agreement.csv")) == ["role", "what", "r", "p", "n"]


def test_nothing_out_of_scope_is_not_run(tmp_path):
    run = make_neurons(tmp_path / "run", as_claimed, langs=["en", "de", "zh"], out=[])
    assert made(run, "table4")["caption"].startswith("Not run: no language of its kind")
    assert made(run, "fig4")["verdicts"][0]["holds"] is True


def test_missing_scores_are_counted_and_no_verdict_rests_on_them(tmp_path):
    run = make_neurons(tmp_path / "run", as_claimed)
    edit(run, "answered", "aya-23-8b", lambda rows: rows.assign(toxicity=rows["toxicity"].mask((rows["lang"] == "ko") & ~rows["empty"])))
    found = made(run, "table4")
    assert {v["holds"] for v in found["verdicts"]} == {None} and "scores are missing in ko" in found["verdicts"][0]["reproduced"]
    assert any(re.search(r"aya-23-8b: 40 prompts .* [1-9]\d* of \d+ scores missing", line) for line in found["footer"])
    cells = pd.read_csv(run / "exhibits/neuronft2025/table4/aya-23-8b.csv").set_index("languages")
    assert set(cells.loc["ko"]) == {"-"} and set(cells.loc["average"]) == {"-"} and cells.loc["cs", "base"] != "-"


def test_a_language_that_another_one_was_scored_as_bears_no_verdict(tmp_path):
    run = make_neurons(tmp_path / "run", as_claimed)
    for role in ("aya-23-8b", "llama3.1-8b"):
        path = run / f"answered/{role}.parquet.manifest.json"
        path.write_text(path.read_text().replace("lexicon:babel", "perspective:default#ko=en"))
        edit(run, "answered", role, lambda rows: rows.assign(toxicity=rows["toxicity"].mask((rows["lang"] == "ko") & ~rows["empty"])))
    assert {v["holds"] for v in made(run, "table4")["verdicts"]} == {True}  # over the other six


def test_printed_values_stand_beside(claimed):
    for name, printed in {"table3": "(0.195)", "table4": "(0.146)"}.items():
        made(claimed, name)
        table = pd.read_csv(claimed / f"exhibits/neuronft2025/{name}/aya-23-8b.csv")
        assert table["full"].str.endswith(printed).sum() >= 1 and "random (ours)" in table
    made(claimed, "table2")
    assert "505,382" in set(pd.read_csv(claimed / "exhibits/neuronft2025/table2/table2.csv")["published"])


def test_table_1_masks_its_words(claimed):
    def spelt_out():
        text = (claimed / "exhibits/neuronft2025/table1/table1.csv").read_text()
        return [w for w in babel.toxic_words(["en"]) if re.search(rf"\b{w}\b", text, re.IGNORECASE)]
    made(claimed, "table1", show_toxic=True)
    assert spelt_out()
    made(claimed, "table1")
    assert not spelt_out()


def test_equal_artifacts_leave_equal_bytes(claimed, tmp_path):
    again = make_neurons(tmp_path / "again", as_claimed)
    for name in ("fig1", "table4"):
        for run in (claimed, again):
            made(run, name)
        assert file_digest(claimed / "exhibits/neuronft2025" / name) == file_digest(again / "exhibits/neuronft2025" / name), name


def test_no_exhibit_loads_torch(claimed):
    "What the notebooks import, in a process of their own"
    code = """import sys
from xlingtox.papers.neuronft2025 import abilities, answers, detected, methods, paired, pipeline, rules, shared, toxicity
from xlingtox.mechanism.neuron_sets import by_number, overlaps, sharing_counts
print([m for m in ("torch", "transformers", "sklearn") if m in sys.modules])"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_intervals_are_around_their_values(claimed):
    made(claimed, "table3")
    levels = pd.read_csv(claimed / "exhibits/neuronft2025/table3/levels.csv")
    assert ((levels["low"] <= levels["value"]) & (levels["value"] <= levels["high"])).all() and np.isfinite(levels["value"]).all()
