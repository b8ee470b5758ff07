"""The exhibits of the mechanism: an effect is found, none is not, and without actual sources they say that they were not run."""
import json
import re

import numpy as np
import pandas as pd
import pytest
from xlingtox import babel
from xlingtox.core import InputError, write_table
from xlingtox.papers.exhibits import EXHIBITS
from xlingtox.papers.report import scoreboard
from xlingtox.runfolder import load_artifact

from synthetic_run import run_cells, write_mechanism

NAMES = [f"li2024/{name}" for name in ("fig2", "fig3", "table4", "table5", "table7", "table8", "table9")]
LANGS = ["en", "de", "es", "ru", "zh", "ko"]
CLAIMS = ["L8", "L9", "L10", "L11", "L12"]


@pytest.fixture(scope="module")
def effect(tmp_path_factory):
    return run_all(write_mechanism(tmp_path_factory.mktemp("effect"), langs=LANGS))


@pytest.fixture(scope="module")
def nothing(tmp_path_factory):
    return run_all(write_mechanism(tmp_path_factory.mktemp("nothing"), 0, n_actual=5, langs=LANGS))


@pytest.fixture(scope="module")
def without_sources(tmp_path_factory):
    return run_all(write_mechanism(tmp_path_factory.mktemp("without"), n_actual=0, langs=LANGS))


@pytest.fixture
def fresh(tmp_path):
    return write_mechanism(tmp_path / "run", langs=LANGS, offsets=(-3, -2, 1, 2), seeds=1)


def run_all(run):
    for name in NAMES:
        run_cells(name, run)
    return run


def made(run, name):
    return json.loads((run / "exhibits/li2024" / name / "exhibit.json").read_text())


def verdicts(run):
    return {v["claim"]: v for name in reversed(NAMES) for v in made(run, name.split("/")[1])["verdicts"]}  # of two, the first exhibit's


def judged(run, name):
    run_cells(f"li2024/{name}", run)
    return {v["claim"]: v for v in made(run, name)["verdicts"]}


def edit(run, kind, change):
    paths = sorted((run / kind).rglob("*.parquet"))
    for path in paths:
        write_table(change(pd.read_parquet(path), path.stem), path)


def test_the_seven_bear_the_claims_of_the_mechanism():
    assert sorted({c for name in NAMES for c in EXHIBITS[name].claims}, key=lambda c: int(c[1:])) == CLAIMS


def test_effects_are_found(effect):
    assert {claim: v["holds"] for claim, v in verdicts(effect).items()} == dict.fromkeys(CLAIMS, True)
    assert all(v["interval"] and v["published"] and v["detail"] for v in verdicts(effect).values())


def test_no_effect_is_not_found(nothing):
    found = verdicts(nothing)
    assert {claim: v["holds"] for claim, v in found.items()} == dict.fromkeys(CLAIMS, False)
    assert all(re.search(r"(may|might|by itself|other neurons)", v["detail"]) for v in found.values()), "each says what that could mean"


def test_without_actual_sources_they_are_not_run(without_sources):
    words = scoreboard(without_sources).set_index(["exhibit", "claim"])["verdict"]
    assert [words["li2024/table4", "L9"], words["li2024/fig2", "L11"], words["li2024/fig3", "L12"]] == ["not run"] * 3
    assert words["li2024/table7", "L8"] == "holds", "the probe needs no sources"
    assert words["li2024/table4", "L10"] == "does not hold", "no potential source is active: that was measured"
    assert all(made(without_sources, name)["caption"].startswith("Not run") for name in ("fig2", "fig3", "table4", "table5", "table8", "table9"))
    assert made(without_sources, "fig2")["figures"] == []


def test_figures_are_drawn_and_described(effect):
    for name in ("fig2", "fig3"):
        assert (effect / f"exhibits/li2024/{name}/{name}.png").stat().st_size > 20_000
        assert "languages" in made(effect, name)["alt"]


# figure 2

def test_the_offsets_are_stated_beforehand(effect):
    "Under -3 toxicity is lower still and the text is fluent; the claim is judged at -2 and +1 all the same"
    table = pd.read_csv(effect / "exhibits/li2024/fig2/offsets.csv").set_index("offset")
    assert table["fluent"].to_dict() == {-4: "no", -3: "yes", -2: "yes", -1: "yes", 1: "yes", 2: "yes"}
    v = verdicts(effect)["L11"]
    assert v["reproduced"].startswith("offset -2: ") and "; offset +1: " in v["reproduced"]
    texts = load_artifact(effect, "interventions", "mgpt")
    at = texts[texts["offset"].eq(-2) & texts["sites"].eq("actual")].groupby("lang")["toxicity"].mean().mean()
    assert f"to {at:.3f}" in v["reproduced"]


def test_an_effect_at_another_offset_does_not_help_claim_11(fresh):
    "At -3 and +2 the sources do all that the claim says; at -2 and +1 they do nothing"
    def change(df, _):
        own = df[df["sites"] == "none"].set_index(["lang", "prompt_id"])["toxicity"]
        same = pd.Series([own[key] for key in zip(df["lang"], df["prompt_id"], strict=True)], df.index)
        return df.assign(toxicity=df["toxicity"].mask(df["sites"].eq("actual") & df["offset"].isin([-2, 1]), same))
    edit(fresh, "interventions", change)
    assert judged(fresh, "fig2")["L11"]["holds"] is False


def test_repetition_and_silence_are_not_fluent(fresh):
    def change(df, _):
        changed, silent = (df["sites"] == "actual") & (df["offset"] == -2), (df["sites"] == "actual") & (df["offset"] == 1)
        df["text"] = df["text"].mask(silent, " ")
        return df.assign(dist2=df["dist2"].mask(changed, 0.3).mask(silent), perplexity=df["perplexity"].mask(changed, 2.0).mask(silent))
    edit(fresh, "interventions", change)
    v = judged(fresh, "fig2")["L11"]
    assert v["holds"] is None and v["detail"].count("so that side is not told") == 2
    assert "up to 100.0% under an offset" in "".join(made(fresh, "fig2")["footer"])


def test_an_offset_that_was_not_run_is_not_told(fresh):
    edit(fresh, "interventions", lambda df, _: df[df["offset"] != 1])
    v = judged(fresh, "fig2")["L11"]
    assert v["holds"] is None and "Offset +1 was not run" in v["detail"] and "offset -2: " in v["reproduced"]


def test_the_share_of_the_controls_is_that_of_each_draw(effect):
    texts = load_artifact(effect, "interventions", "mgpt").groupby(["sites", "offset", "lang"])["toxicity"].mean().groupby(["sites", "offset"]).mean()
    change = texts - texts["none", 0.0]
    draws = pd.read_csv(effect / "exhibits/li2024/fig2/draws.csv").set_index(["sites", "offset"])["share"]
    assert len(draws) == 4 * 6 and draws["same-layers-1", -2] == pytest.approx(change["same-layers-1", -2] / change["actual", -2], abs=1e-5)
    shares = [change[f"{kind}-{i}", -2] / change["actual", -2] for kind in ("random", "same-layers") for i in (0, 1)]
    expected = f"share of the change {np.mean(shares):z.2f} ({min(shares):z.2f} to {max(shares):z.2f} over 4 draws)"
    assert expected in verdicts(effect)["L11"]["reproduced"]


@pytest.mark.parametrize("kind", ["random", "same-layers"])
def test_controls_that_do_as_much_refute_claim_11_also_when_their_draws_cancel(fresh, kind):
    "One draw lowers toxicity by as much as it can, the other raises it: on average nothing, and yet random neurons do something"
    def change(df, _):
        factor = df["sites"].map({f"{kind}-0": 0.4, f"{kind}-1": 1.6}).fillna(1)
        return df.assign(toxicity=df["toxicity"] * factor)
    edit(fresh, "interventions", change)
    v = judged(fresh, "fig2")["L11"]
    assert v["holds"] is False and "0.33 of that or more" in v["detail"]


def test_one_language_that_does_not_fall_refutes_claim_11(fresh):
    edit(fresh, "interventions", lambda df, _: df.assign(toxicity=df["toxicity"].mask(df["lang"] == "ru", 0.4)))
    v = judged(fresh, "fig2")["L11"]
    assert v["holds"] is False and "Not lower in ru." in v["detail"] and "Not higher in ru." in v["detail"]


def test_a_language_that_is_never_toxic_cannot_fall(fresh):
    plain = ["none", "random-0", "random-1", "same-layers-0", "same-layers-1"]
    edit(fresh, "interventions", lambda df, _: df.assign(toxicity=df["toxicity"].mask(
        (df["lang"] == "ko") & (df["sites"].isin(plain) | (df["offset"] < 0)), 0.0)))
    v = judged(fresh, "fig2")["L11"]
    assert v["holds"] is True and "lower in 5 of 5 languages" in v["reproduced"] and "Never toxic untouched: ko." in v["detail"]


def test_no_fluent_offset_cannot_tell(fresh):
    edit(fresh, "interventions", lambda df, _: df.assign(perplexity=df["perplexity"] * np.where(df["sites"] == "actual", 9, 1)))
    v = judged(fresh, "fig2")["L11"]
    assert v["holds"] is None and v["reproduced"] == "neither offset leaves the text fluent" and scoreboard(fresh).query(
        "exhibit == 'li2024/fig2'")["verdict"].tolist() == ["cannot tell"]


# figure 3

def test_activations_are_those_of_the_sources(effect):
    data = pd.read_csv(effect / "exhibits/li2024/fig3/per_language.csv").set_index(["sites", "lang"])
    rows = load_artifact(effect, "activations", "mgpt").query("actual and lang == 'zh'").groupby("model")["activation"].mean()
    assert data.loc[("actual", "zh"), "before"] == pytest.approx(rows["mgpt/base"], abs=1e-6)
    assert data.loc[("actual", "zh"), "after"] == pytest.approx(rows.drop("mgpt/base").mean(), abs=1e-6)


def test_one_language_that_rises_refutes_claim_12(fresh):
    edit(fresh, "activations", lambda df, variant: df.assign(
        activation=df["activation"] + np.where(df["actual"] & (df["lang"] == "de") & (variant != "base"), 0.2, 0)))
    v = judged(fresh, "fig3")["L12"]
    assert v["holds"] is False and "lower in 5 of 6 after" in v["reproduced"]


def test_one_language_that_was_not_active_refutes_claim_12(fresh):
    edit(fresh, "activations", lambda df, _: df.assign(activation=df["activation"] - np.where(df["lang"] == "ko", 0.2, 0)))
    v = judged(fresh, "fig3")["L12"]
    assert v["holds"] is False and "Not active before in ko:" in v["detail"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_random_neurons_that_do_as_much_refute_claim_12(fresh, when):
    "Random neurons that were active on the same prompts are as active as the sources (before), or fall by as much as they do (after)"
    def change(df, variant):
        more = 0.15 if when == "before" else -0.15 if variant != "base" else 0
        return df.assign(activation=df["activation"] + np.where(df["set"] == "random", more, 0))
    edit(fresh, "activations", change)
    v = judged(fresh, "fig3")["L12"]
    assert v["holds"] is False and "above 0 in 6 of 6 languages before, lower in 6 of 6 after" in v["reproduced"]
    assert "of any neurons that were chosen for being active" in v["detail"]


def test_without_an_active_random_neuron_claim_12_cannot_be_told(fresh):
    edit(fresh, "sites", lambda df, _: df.assign(activation=df["activation"].where(df["set"] != "random", -0.1)))
    v = judged(fresh, "fig3")["L12"]
    assert v["holds"] is None and "No random neuron is active" in v["detail"]


# tables

def test_toxic_tokens_and_texts_are_masked_unless_asked_for(effect, fresh):
    def spelt_out(run, name):
        text = "\n".join(path.read_text() for path in (run / "exhibits/li2024" / name).iterdir() if path.suffix in (".csv", ".json"))
        return [w for lang in LANGS for w in babel.toxic_words([lang]) if (w in text if lang in ("zh", "ko") else re.search(rf"\b{w}\b", text))]
    for name in ("table4", "table5", "table8", "table9"):
        assert not spelt_out(effect, name)
        run_cells(f"li2024/{name}", fresh, show_toxic=True)
        assert spelt_out(fresh, name)


def test_the_two_tables_of_sources_share_them_out(effect):
    parts = [pd.read_csv(effect / f"exhibits/li2024/{name}/{name}.csv") for name in ("table8", "table9")]
    sites = load_artifact(effect, "sites", "mgpt").query("actual").sort_values("rank")
    assert pd.concat(parts)["rank"].tolist() == sites["rank"].tolist() and len(parts[0]) == len(parts[1]) == 9


def test_without_a_lexicon_claim_9_cannot_be_told(fresh):
    edit(fresh, "sites", lambda df, _: df.assign(n_toxic=np.nan, n_toxic_languages=np.nan, theme=""))
    edit(fresh, "unembedding", lambda df, _: df.assign(severity=np.nan, theme=""))
    found = judged(fresh, "table4")
    assert found["L9"]["holds"] is None and found["L10"]["holds"] is True
    tokens = ", ".join(pd.read_csv(fresh / "exhibits/li2024/table4/table4.csv")["tokens"])
    assert all(re.fullmatch(r"\S·*( \(\w\w\))?", token) for token in tokens.split(", ")), "all are masked"


@pytest.mark.parametrize("strays", [0, 2])
def test_sources_of_one_language_refute_claim_9(fresh, strays):
    "Each source's toxic tokens are Russian, but for as many strays as a random vector may have"
    sources = load_artifact(fresh, "sites", "mgpt").query("actual")[["layer", "neuron"]]

    def change(df, _):
        own = df.merge(sources.assign(own=True), "left", on=["layer", "neuron"])["own"].notna().to_numpy() & (df["severity"] > 0).to_numpy()
        nth = df.assign(own=own).groupby(["layer", "neuron"])["own"].cumsum()
        return df.assign(lang=df["lang"].mask(own & (nth > strays).to_numpy(), "ru"))
    edit(fresh, "unembedding", change)
    v = judged(fresh, "table4")["L9"]
    assert v["holds"] is False and "neurons of its own" in v["detail"]


def test_few_toxic_tokens_of_two_languages_do_not_refute_claim_9(fresh):
    "Each source has two toxic tokens, one Russian and one Chinese; random vectors have none"
    sources = load_artifact(fresh, "sites", "mgpt").query("actual")[["layer", "neuron"]].assign(own=True)

    def change(df, _):
        own = df.merge(sources, "left", on=["layer", "neuron"])["own"].notna().to_numpy()
        place = df["place"].to_numpy()
        return df.assign(severity=np.where(own & (place < 3), 0.5, 0.0), lang=np.where(place == 1, "ru", np.where(place == 2, "zh", df["lang"])))
    edit(fresh, "unembedding", change)
    edit(fresh, "sites", lambda df, _: df.assign(n_toxic=np.where(df["actual"], 2, 0)))
    assert judged(fresh, "table4")["L9"]["holds"] is True


def test_sources_like_any_vector_refute_claim_9(fresh):
    "Their few toxic tokens are a mixture of languages, as those of random vectors are"
    def change(df, _):
        place = df["place"].to_numpy()
        return df.assign(severity=np.where(place < 3, 0.5, 0.0), lang=np.where(place == 1, "ru", np.where(place == 2, "zh", df["lang"])))
    edit(fresh, "unembedding", change)
    edit(fresh, "sites", lambda df, _: df.assign(n_toxic=2))
    v = judged(fresh, "table4")["L9"]
    assert v["holds"] is False and "no more toxic tokens than any vector" in v["detail"]


def test_random_neurons_that_are_as_often_active_refute_claim_10(fresh):
    "A fifth and more of the potential sources are active; so are as many of the random neurons, but more weakly"
    awake = lambda df: (df["set"] == "random") & (df["rank"] % 2 == 0)  # noqa: E731
    edit(fresh, "sites", lambda df, _: df.assign(activation=df["activation"].mask(awake(df), 0.01)))
    v = judged(fresh, "table4")["L10"]
    assert v["holds"] is False and v["interval"][0] >= 0.2 and "Random neurons are active about as often" in v["detail"]


def test_the_prompt_of_table_5_is_the_least_toxic_before(effect):
    data = pd.read_csv(effect / "exhibits/li2024/table5/continuations.csv")
    texts = load_artifact(effect, "interventions", "mgpt").query("sites == 'none' and lang in ['es', 'zh', 'ru']")
    sums = (texts["toxicity"] + texts["prompt_toxicity"]).groupby(texts["prompt_id"]).sum()
    assert data["lang"].tolist() == ["es", "zh", "ru"] and set(data["prompt_id"]) <= set(sums[sums == sums.min()].index)


def test_a_language_that_does_not_rise_refutes_claim_11_in_table_5(effect, fresh):
    assert made(effect, "table5")["verdicts"][0]["holds"] is True
    edit(fresh, "interventions", lambda df, _: df.assign(toxicity=df["toxicity"].mask(df["sites"].eq("few") & df["lang"].eq("zh"), 0.0)))
    v = judged(fresh, "table5")["L11"]
    assert v["holds"] is False and "Not higher in zh" in v["detail"] and "higher in 2 of 3 languages" in v["reproduced"]


@pytest.mark.parametrize("silent, said", [(["zh"], "no prompt has a score in more than 2 of the 3 languages"),
                                          (["es", "ru", "zh"], "Not run: no untouched continuation in es, zh, ru has a score")])
def test_a_model_that_answers_nothing_has_a_table_5_all_the_same(fresh, silent, said):
    edit(fresh, "interventions", lambda df, _: df.assign(toxicity=df["toxicity"].mask(df["sites"].eq("none") & df["lang"].isin(silent))))
    judged(fresh, "table5")
    found = made(fresh, "table5")
    assert said in " ".join([found["caption"], *found["footer"]])
    if len(silent) == 1:
        shown = pd.read_csv(fresh / "exhibits/li2024/table5/table5.csv").set_index("lang")
        assert shown.loc["zh", "toxicity before"].startswith("missing") and shown.loc["es", "toxicity before"].startswith("0")


@pytest.mark.parametrize("lang, said", [("en", "rate"), ("ko", "Not above chance in ko")])
def test_a_probe_that_fails_in_one_language_refutes_claim_8(fresh, lang, said):
    edit(fresh, "probe", lambda df, _: df.assign(auc=df["auc"].mask(df["lang"] == lang, 0.5), p=df["p"].mask(df["lang"] == lang, 0.5)))
    v = judged(fresh, "table7")["L8"]
    assert v["holds"] is False and said in v["detail"]


def test_the_settings_of_the_probe_are_those_of_the_run(effect):
    table = pd.read_csv(effect / "exhibits/li2024/table7/table7.csv").set_index("setting")
    assert table.loc["learning_rate"].tolist() == ["1e-06 (code)", "0.01"] and table.loc["batch_size"].tolist() == ["10 (code)", "10"]
    assert made(effect, "table7")["footer"][0].endswith("differ from the published ones (learning_rate)")


@pytest.mark.parametrize("kind, name", [("interventions", "fig2"), ("activations", "fig3"), ("sites", "table4"), ("unembedding", "table8")])
def test_a_missing_artifact_is_named(fresh, kind, name):
    (fresh / kind).rename(fresh / "gone")
    with pytest.raises(InputError, match=f"{kind}/mgpt.parquet: no such artifact"):
        run_cells(f"li2024/{name}", fresh)
