"""The exhibits of further models and further ways of tuning: an effect is found, none is not, and what was not run is said to be so."""
import json

import numpy as np
import pandas as pd
import pytest
from xlingtox import profiles
from xlingtox.core import InputError, write_table
from xlingtox.papers.exhibits import EXHIBITS
from xlingtox.papers.report import scoreboard
from xlingtox.runfolder import load_artifact, tuned_models
from xlingtox.runs import select

from synthetic_run import make_run, run_cells, write_capability

LANGS = ["en", "de", "es", "fr", "nl", "ru", "ar", "zh", "ko"]
RATES = {2e-6: 0.1, 5e-6: 0.4, 1e-5: 0.65, 5e-5: 0.98}


def sweep(strengths):
    return {"lr": {f"lr-{rate:g}-0": (strength, {"learning_rate": rate}) for rate, strength in strengths.items()}}


def adapter(strength):
    return {"qlora": {"qlora-0": (strength, {"tuning": "qlora"})}}


@pytest.fixture(scope="module")
def mgpt(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("mgpt"), 0.9, LANGS, n_prompts=40, further=sweep(RATES))


@pytest.fixture(scope="module")
def bloom(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("bloom"), 0.95, LANGS, n_prompts=60, roles=("bloom-1b7", "bloom-7b1"), seeds=1, further=adapter(0.3))
    return write_capability(run, "bloom-7b1", langs=LANGS, seeds=1)


@pytest.fixture(scope="module")
def nothing(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("nothing"), 0, LANGS, further=sweep(dict.fromkeys(RATES, 0)))
    return make_run(run, 0, LANGS, roles=("bloom-1b7", "bloom-7b1", "llama2-7b"), seeds=1, further=adapter(0))


def judged(run, name, **parameters):
    run_cells(name, run, **parameters)
    verdicts = json.loads((run / "exhibits" / name / "exhibit.json").read_text())["verdicts"]
    return {v["claim"]: v for v in verdicts}


def holds(run, name):
    return {claim: v["holds"] for claim, v in judged(run, name).items()}


def test_effects_are_found(mgpt, bloom):
    assert holds(mgpt, "li2024/fig10") == {"L4": True}
    assert holds(mgpt, "li2024/fig11") == {"L6": True}
    assert holds(bloom, "li2024/fig12") == {"L3": True}
    assert holds(bloom, "li2024/table3") == {"L7": True}


@pytest.mark.parametrize("name, claim", [("fig10", "L4"), ("fig11", "L6"), ("fig12", "L3"), ("fig5", "L1"), ("fig6", "L1"), ("fig13", "L13"),
                                         ("fig13", "L14"), ("fig15", "L13")])
def test_no_change_is_no_effect(nothing, name, claim):
    v = judged(nothing, f"li2024/{name}")[claim]
    assert v["holds"] is False and v["detail"].count(".") > 1, "a claim that does not hold comes with a sentence on what that could mean"


def test_no_change_in_any_family(nothing):
    found = judged(nothing, "li2024/table2")
    assert {claim: v["holds"] for claim, v in found.items()} == {"L2": False, "L4": False, "L5": False}
    table = pd.read_csv(nothing / "exhibits/li2024/table2/table2.csv").set_index("model")
    assert table.loc[["Llama3-8B", "Aya-23-8B"], "state"].tolist() == ["not run"] * 2
    assert table.loc["Llama2-7B", "state"].tolist() == ["before", "after"]


def test_one_notebook_shows_every_model(bloom):
    "Figures 5 and 6 are figure 1 of other models, 13 and 14 figure 4: each has its own folder, title and published value"
    for name, role in {"fig5": "BLOOM-1.7B", "fig6": "BLOOM-7.1B"}.items():
        judged(bloom, f"li2024/{name}")
        made = json.loads((bloom / f"exhibits/li2024/{name}/exhibit.json").read_text())
        assert role in made["title"] and made["name"] == name and (bloom / f"exhibits/li2024/{name}/{name}.svg").is_file()
    assert "0.59" in judged(bloom, "li2024/fig13")["L13"]["published"] and "0.66" in judged(bloom, "li2024/fig14")["L13"]["published"]
    scores = load_artifact(bloom, "prompt_scores", "bloom-7b1").query("lang == 'en' and variant == 'base'")["max"].mean()
    data = pd.read_csv(bloom / "exhibits/li2024/fig6/per_language.csv").set_index(["metric", "lang"])
    assert data.loc[("emt", "en"), "before"] == pytest.approx(scores, abs=1e-5)


def test_four_languages_cannot_tell_what_predicts(tmp_path):
    run = make_run(tmp_path / "run", 0.9, ["en", "de", "ru", "zh"])
    assert holds(run, "li2024/fig4") == {"L13": None, "L14": None}


@pytest.mark.parametrize("langs", [["en", "de", "ru", "zh"], ["en", "de"], ["en"]])
def test_too_few_languages_for_a_correlation_is_said(tmp_path, langs):
    run = make_run(tmp_path / "run", 0.9, langs, n_prompts=10)
    if langs == ["en"]:
        kept = make_run(tmp_path / "other", 0.9, ["en", "de"], n_prompts=3) / "retrieval/mgpt.parquet"
        write_table(pd.read_parquet(kept).head(0), run / "retrieval/mgpt.parquet")
    for v in judged(run, "li2024/fig4").values():
        assert v["holds"] is None and "too few" in v["reproduced"] and f"{len(langs) - 1} " in v["reproduced"]
    table = pd.read_csv(run / "exhibits/li2024/fig4/correlations.csv")
    assert set(table["r"]) == {"-"} and "nan" not in (run / "exhibits/li2024/fig4/exhibit.json").read_text()


def test_the_least_reduced_say_nothing_where_alignment_does_not_predict(tmp_path):
    "The four least reduced are the four least aligned, but among the others it is the other way round, so L13 does not hold"
    from xlingtox.papers.li2024.transfer import correlate_transfer, judge_l13, judge_l14, published_correlation
    langs = ["ar", "cs", "de", "es", "fr", "hi", "id", "it", "ja", "ko", "nl", "pl"]
    accuracy = np.linspace(0.1, 0.9, 12)
    fall = np.r_[[40, 41, 42, 43], np.linspace(80, 45, 8)]
    data = pd.DataFrame({"lang": langs, "accuracy": accuracy, "cosine": accuracy, "percent": fall, "percent_low": fall, "percent_high": fall})
    predicts = judge_l13(data, correlate_transfer(data), published_correlation("mgpt"), "li2024/fig4")
    follows = judge_l14(data, predicts["holds"], "mgpt", "li2024/fig4")
    assert predicts["holds"] is False and follows["holds"] is False and "L13 does not hold" in follows["detail"]
    assert judge_l14(data, True, "mgpt", "li2024/fig4")["holds"] is True, "by its own test alone it would have been confirmed"


def test_further_variants_stay_out_of_the_main_exhibits(mgpt):
    run_cells("li2024/table2", mgpt)
    with_sweep = (mgpt / "exhibits/li2024/table2/averages.csv").read_text()
    assert set(load_artifact(mgpt, "perplexity", "mgpt")["model"]) == {"mgpt/base", *(f"mgpt/dpo-{s}" for s in range(3))}
    assert "dpo-2" in with_sweep and "lr" not in with_sweep.splitlines()[0]


def test_a_rate_that_costs_nothing_is_no_trade(tmp_path):
    run = make_run(tmp_path / "run", 0.9, LANGS, further=sweep(RATES))
    for name in ("mgpt", "mgpt/lr"):
        path = run / f"metrics/{name}.parquet"
        df = pd.read_parquet(path)
        flat = df[df["variant"] == "base"].set_index(["lang", "metric"])["value"]
        same = [flat[key] for key in zip(df["lang"], df["metric"], strict=True)]
        write_table(df.assign(value=df["value"].where(df["metric"] != "perplexity", same)), path)
    v = judged(run, "li2024/fig11")["L6"]
    assert v["holds"] is False and "EMT falls" in v["reproduced"]


def test_many_languages_do_not_make_up_for_an_order_that_is_missing(tmp_path):
    "One rate of five is out of order in all nine languages: a test that counts languages would not mind, one that counts models does"
    run = make_run(tmp_path / "run", 0.9, LANGS, n_prompts=40, further=sweep({2e-6: 0.95, 5e-6: 0.4, 1e-5: 0.65, 5e-5: 0.98}))
    v = judged(run, "li2024/fig11")["L6"]
    assert v["holds"] is False and v["n"] == 5 and "no further observations" in v["detail"]


def test_two_rates_are_no_order(tmp_path):
    run = make_run(tmp_path / "run", 0.9, LANGS, further=sweep({2e-6: 0.1}))
    assert holds(run, "li2024/fig11") == {"L6": None}
    assert set(pd.read_csv(run / "exhibits/li2024/fig11/models.csv")["variant"]) == {"dpo-0", "lr-2e-06-0"}, "the seeds that both rates have"


def test_an_adapter_that_detoxifies_more_refutes_claim_3(tmp_path):
    run = make_run(tmp_path / "run", 0.3, LANGS, n_prompts=40, roles=("bloom-1b7",), seeds=1, further=adapter(0.95))
    v = judged(run, "li2024/fig12")["L3"]
    assert v["holds"] is False and v["interval"][1] < 0


def test_distributions_that_part_refute_claim_4(tmp_path):
    run = make_run(tmp_path / "run", 0.9, LANGS)
    for path in (run / "perplexity/mgpt").glob("dpo-*"):
        df = pd.read_parquet(path)
        write_table(df.assign(perplexity=df["perplexity"].where(df["lang"] != "ko", df["perplexity"] * 20)), path)
    v = judged(run, "li2024/fig10")["L4"]
    assert v["holds"] is False and "shared in ko:" in v["detail"]


@pytest.mark.parametrize("lost, known, verdict", [(0, 0.8, True), (0.5, 0.8, False), (0.3, 0.25, None)])
def test_capability(tmp_path, lost, known, verdict):
    run = make_run(tmp_path / "run", 0.9, ["en"], n_prompts=3, roles=("bloom-7b1",), seeds=1)
    write_capability(run, "bloom-7b1", lost, known, LANGS, seeds=2)
    v = judged(run, "li2024/table3")["L7"]
    assert v["holds"] is verdict and "guessing 25%" in v["reproduced"]
    table = pd.read_csv(run / "exhibits/li2024/table3/table3.csv")
    assert table["lang"].tolist() == ["en", "de", "nl", "es", "fr", "ru", "ar", "zh", "ko", "mean"] and set(table["guessing, %"]) == {25}


def test_few_questions_cannot_tell(tmp_path):
    run = make_run(tmp_path / "run", 0.9, ["en"], n_prompts=3, roles=("bloom-7b1",), seeds=1)
    write_capability(run, "bloom-7b1", 0.1, 0.9, ["en", "de"], n_questions=15, seeds=1)
    assert holds(run, "li2024/table3") == {"L7": None}


def test_hyperparameters_are_those_of_the_run(bloom):
    run_cells("li2024/table6", bloom)
    table = pd.read_csv(bloom / "exhibits/li2024/table6/table6.csv", keep_default_na=False).set_index("setting")
    assert table.loc["learning_rate", ["full, published", "bloom-1b7", "mgpt"]].tolist() == ["1e-05 (code)", "2e-05", "not run"]
    assert table.loc["steps run", "bloom-7b1"] == "60" and table.loc["r", ["QLoRA, published", "bloom-1b7"]].tolist() == ["64", "-"]
    differences = pd.read_csv(bloom / "exhibits/li2024/table6/differences.csv")
    assert {"learning_rate", "batch_size"} <= set(differences["setting"]) and "beta" not in set(differences["setting"])


def test_the_precision_is_that_of_the_run(bloom):
    "It is read from the manifests of the tuned models, as every other setting, and stands among the differences"
    paths = list((bloom / "models/bloom-1b7").glob("dpo-*.manifest.json"))
    before = [path.read_text() for path in paths]
    for path, text in zip(paths, before, strict=True):
        manifest = json.loads(text)
        manifest["parameters"]["precision"] = "bfloat16"
        path.write_text(json.dumps(manifest))
    run_cells("li2024/table6", bloom)
    for path, text in zip(paths, before, strict=True):
        path.write_text(text)
    table = pd.read_csv(bloom / "exhibits/li2024/table6/table6.csv", keep_default_na=False).set_index("setting")
    assert table.loc["precision", ["full, published", "bloom-1b7"]].tolist() == ["float16 (code)", "bfloat16"]
    differences = pd.read_csv(bloom / "exhibits/li2024/table6/differences.csv").set_index("setting")
    assert "bfloat16" in set(differences.loc[["precision"], "run"])


def test_a_setting_that_no_record_holds_is_a_dash(tmp_path):
    run = make_run(tmp_path / "run", 0.9, ["en"], n_prompts=3, roles=("bloom-7b1",), seeds=1)
    path = run / "models/bloom-7b1/dpo-0.manifest.json"
    manifest = json.loads(path.read_text())
    manifest["parameters"] |= {"tuning": "qlora", "lora": {"r": 8}}
    path.write_text(json.dumps(manifest))
    run_cells("li2024/table6", run)
    table = pd.read_csv(run / "exhibits/li2024/table6/table6.csv", keep_default_na=False).set_index("setting")["bloom-7b1"]
    assert table[["r", "alpha", "dropout"]].tolist() == ["8", "-", "-"]
    differences = pd.read_csv(run / "exhibits/li2024/table6/differences.csv", keep_default_na=False)["setting"].tolist()
    assert {"r", "alpha", "dropout"} <= set(differences)


def test_what_was_not_run_is_said(mgpt):
    board = scoreboard(mgpt).set_index(["exhibit", "claim"])["verdict"]
    assert board["li2024/fig12", "L3"] == board["li2024/table3", "L7"] == board["li2024/fig9", "L1"] == "not run"
    with pytest.raises(InputError, match="prompt_scores/bloom-1b7.parquet: no such artifact"):
        run_cells("li2024/fig5", mgpt)
    mini = profiles.load_profile("mini")
    assert {select.lacks(mini, EXHIBITS[f"li2024/{name}"]) for name in ("fig9", "fig10", "fig11", "fig12", "fig15", "table3", "table6")} == {""}
    mini.models["mgpt"].variants.clear()
    assert "variants" in select.lacks(mini, EXHIBITS["li2024/fig11"]) and select.lacks(mini, EXHIBITS["li2024/fig10"]) == ""


def test_tuned_models_carry_their_settings(mgpt):
    found = tuned_models(mgpt, "mgpt", "lr")
    assert [s["learning_rate"] for s in found.values()] == [1e-5, 2e-6, 5e-5, 5e-6] and {s["steps"] for s in found.values()} == {60}
    assert list(tuned_models(mgpt, "mgpt")) == ["dpo-0", "dpo-1", "dpo-2"]
