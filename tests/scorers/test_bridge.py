"""Bridges between scorers: what comes out where the answer is known, what is refused, and what bad input is told."""
import json

import numpy as np
import pandas as pd
import pytest
from xlingtox.core import InputError
from xlingtox.metrics.bridged import bridged_change, bridged_summary
from xlingtox.metrics.toxicity import toxicity_summary
from xlingtox.scorers.bridge import MIN_TEXTS, bridge_table, expected, fit_bridge, held_out, pair_texts
from xlingtox.scorers.crossing import cross, load_bridge, read_sides, save_bridge

WHO = {"scorer": "truth"}, {"scorer": "other"}


def world(n_prompts=60, k=10, langs=("en", "zh"), seed=0, toxic=0.5, model="m"):
    "Texts with their true toxicity; prompts differ in how often they are toxic"
    rng = np.random.default_rng(seed)
    rows = [(model, lang, f"p{p}", s, f"{lang} {p} {s} {seed}") for lang in langs for p in range(n_prompts) for s in range(k)]
    table = pd.DataFrame(rows, columns=["model", "lang", "prompt_id", "sample", "text"])
    often = np.repeat(np.tile(rng.beta(1, 4, n_prompts), len(langs)), k) * toxic
    return table.assign(truth=np.where(rng.random(len(table)) < often, rng.beta(3, 3, len(table)), 0).round(4))


def noisy(table, sigma=1.0, seed=1):
    t, z = table["truth"], np.random.default_rng(seed).normal(0, sigma, len(table))
    return 1 / (1 + np.exp(-(np.log((t + 0.02) / (1.02 - t)) + z)))


def fitted(table, scores):
    return fit_bridge(pair_texts(table.assign(toxicity=table["truth"]), table.assign(toxicity=scores)), *WHO)


def as_scores(table, scores):
    return table[["model", "lang", "prompt_id", "sample"]].assign(scorer="other", toxicity=scores)


def levels(table, toxicity):
    return toxicity_summary(as_scores(table, toxicity)).set_index("lang")[["emt", "toxprob", "avgtox"]]


@pytest.mark.parametrize("distort", [np.sqrt, np.square, lambda t: 0.3 + t / 2])
def test_another_level_in_the_same_order_comes_out_right(distort):
    known, new = world(), world(seed=5)
    crossed, refused = cross(fitted(known, distort(known["truth"])), as_scores(new, distort(new["truth"])))
    assert refused == {} and (crossed["scorer"] == "truth bridged from other").all()
    assert (levels(new, distort(new["truth"])) - levels(new, new["truth"]))["emt"].abs().min() > 0.05
    off = (levels(new, crossed["toxicity"]) - levels(new, new["truth"])).abs().max()
    assert off["emt"] < 0.02 and off["avgtox"] < 0.02 and off["toxprob"] < 0.05  # two of sixty prompts lie at the threshold
    assert np.abs(crossed["expected"] - new["truth"]).max() < 0.1


def test_expected_never_falls_and_draws_have_its_mean():
    known = world()
    learnt = fitted(known, noisy(known))["languages"]["en"]["map"]
    at = np.linspace(0, 1, 500)
    assert (np.diff(expected(learnt, at)) >= 0).all()
    new = world(400, seed=3)
    crossed, _ = cross(fitted(known, noisy(known)), as_scores(new, noisy(new, seed=4)))
    assert abs(crossed["toxicity"].mean() - crossed["expected"].mean()) < 0.005


def test_a_noisy_substitute_is_right_on_average_and_its_intervals_contain_the_truth():
    known, new = world(100), world(100, seed=5)
    raw = noisy(new, seed=6)
    found = bridged_summary(fitted(known, noisy(known)), as_scores(new, raw)).set_index(["lang", "metric"])
    truth, before = levels(new, new["truth"]).stack(), levels(new, raw).stack()
    assert (truth.between(found["low"].loc[truth.index], found["high"].loc[truth.index])).all()
    assert np.allclose(found["substitute"].loc[before.index], before)
    emt = (found["value"].xs("emt", level=1) - truth.xs("emt", level=1)).abs()
    assert (emt < 0.5 * (before.xs("emt", level=1) - truth.xs("emt", level=1)).abs()).all()


def test_missing_scores_stay_missing_and_teach_nothing():
    known = world()
    half = noisy(known).where(known.index % 2 == 0)
    bridge = fitted(known, half)
    assert bridge["languages"]["en"]["n"] == 300
    crossed, refused = cross(bridge, as_scores(known, half))
    assert refused == {} and crossed["toxicity"].isna().equals(half.isna()) and crossed["expected"].isna().equals(half.isna())
    silent, refused = cross(bridge, as_scores(known, np.nan))
    assert refused == {} and silent["toxicity"].isna().all()
    assert (bridged_summary(bridge, as_scores(known, np.nan))["refused"] == "no scores").all()


def test_a_summary_counts_what_it_rests_on():
    known, new = world(), world(seed=1)
    scores = as_scores(new, noisy(new))
    scores = scores.assign(toxicity=scores["toxicity"].mask(scores.index.isin(scores.index[:5])))
    summary = bridged_summary(fitted(known, noisy(known)), scores.drop(index=scores.index[-3:]), n_draws=20)
    whole = len(scores)
    counts = summary.groupby("lang")[["n_scored", "n_missing", "n_absent"]].first().sum()
    assert counts.tolist() == [whole - 8, 5, 3], "of each language, refused or not"
    refused = bridged_summary(fitted(known, noisy(known)), as_scores(known, np.nan))
    assert (refused["n_missing"] > 0).all() and (refused["n_scored"] == 0).all()


@pytest.mark.parametrize("spoil, why", [
    (lambda t: t.assign(toxicity=noisy(t).where((t["lang"] == "en") | (t.index < 600 + MIN_TEXTS - 1))),
     f"{MIN_TEXTS - 1} texts scored by both; it takes {MIN_TEXTS}"),
    (lambda t: t.assign(toxicity=noisy(t).mask(t["lang"] == "zh", 0.0)), "the substitute explains 0% of the variance"),
    (lambda t: t.assign(toxicity=noisy(t).mask(t["lang"] == "zh", np.random.default_rng(0).random(len(t)))), "the substitute explains 0% of the variance"),
    (lambda t: t.assign(toxicity=noisy(t).mask(t["lang"] == "zh")), "no text scored by both"),
])
def test_a_language_is_refused_and_the_others_go_on(spoil, why):
    known = world()
    pairs = pair_texts(known.assign(toxicity=known["truth"]), spoil(known))
    bridge = fit_bridge(pairs, *WHO, languages=["en", "zh"])
    table = bridge_table(bridge).set_index("lang")
    assert why in table.loc["zh", "refused"] and table.loc["en", "refused"] == ""
    new = as_scores(world(seed=2), noisy(world(seed=2), seed=7))
    crossed, refused = cross(bridge, new)
    assert list(refused) == [("m", "zh")] and why in refused["m", "zh"]
    assert crossed.loc[crossed["lang"] == "zh", "toxicity"].isna().all() and crossed.loc[crossed["lang"] == "en", "toxicity"].notna().all()
    change = bridged_change(bridge, new, new.assign(model="after"), n_draws=50).set_index("lang")
    assert change.loc["zh", "says"] == "cannot tell" and np.isnan(change.loc["zh", "p"]) and change.loc["en", "says"] == "no difference shown"


def test_just_enough_texts_are_enough():
    known = world(30, langs=("en",))
    assert len(known) == MIN_TEXTS and bridge_table(fitted(known, np.sqrt(known["truth"])))["refused"].tolist() == [""]


def test_a_model_that_scores_otherwise_is_refused_unless_the_bridge_is_exact():
    known, tuned = world(100), world(100, seed=4, toxic=0.05)
    _, refused = cross(fitted(known, noisy(known)), as_scores(tuned, noisy(tuned, seed=9)))
    assert set(refused) == {("m", "en"), ("m", "zh")} and "distributed unlike" in refused["m", "en"]
    exact, refused = cross(fitted(known, np.sqrt(known["truth"])), as_scores(tuned, np.sqrt(tuned["truth"])))
    assert refused == {} and (levels(tuned, exact["toxicity"]) - levels(tuned, tuned["truth"])).abs().max().max() < 0.02


def test_a_verdict_across_a_bridge():
    known, before, after = world(100), world(60, seed=4), world(60, seed=4, toxic=0.1, model="after")
    change = bridged_change(fitted(known, np.sqrt(known["truth"])), as_scores(before, np.sqrt(before["truth"])),
                            as_scores(after, np.sqrt(after["truth"])), n_draws=400)
    fell = levels(after, after["truth"])["emt"] - levels(before, before["truth"])["emt"]
    change = change.set_index("lang")
    assert (change["says"] == "lower").all() and fell.between(change["low"], change["high"]).all() and (change["p_holm"] >= change["p"]).all()


def test_one_text_is_never_on_both_sides():
    rng = np.random.default_rng(0)
    pairs = pd.DataFrame({"substitute": np.tile(rng.random(100), 3), "reference": np.tile(rng.random(100) / 2, 3), "group": np.tile(np.arange(100), 3)})
    top = pairs["substitute"] == pairs["substitute"].max()
    own = [held_out(pairs.assign(reference=pairs["reference"].mask(top, judged)))[top] for judged in (0, 1)]
    assert np.array_equal(*own), "what is said of a text does not hang on its own score"


def test_a_text_that_occurs_twice_is_one_pair():
    known = world(langs=("en",))
    twice = pd.concat([known, known.assign(prompt_id="again")])
    pairs = pair_texts(twice.assign(toxicity=twice["truth"]), twice.assign(toxicity=np.sqrt(twice["truth"])))
    assert len(pairs) == len(known)


@pytest.mark.parametrize("change, message", [
    (lambda t: t.assign(toxicity=1.5), "row 1: toxicity is 1.5; a score is between 0 and 1"),
    (lambda t: t.assign(toxicity=-0.1), "row 1: toxicity is -0.1"),
    (lambda t: t.assign(toxicity=np.inf), "row 1: toxicity is inf"),
    (lambda t: t.assign(toxicity="high"), "row 1: toxicity is high"),
    (lambda t: t.drop(columns="toxicity"), "lacks the columns toxicity"),
    (lambda t: t[["toxicity"]], "lacks the columns lang, text"),
    (lambda t: t.assign(text="x" + t["text"]), "no text has been scored by both"),
    (lambda t: t.assign(toxicity=np.nan), "no text has been scored by both"),
])
def test_bad_pairs(change, message):
    known = world(5).assign(toxicity=0.1)
    with pytest.raises(InputError, match="^[^\n]+$") as e:
        pair_texts(known, change(known))
    assert message in str(e.value)


@pytest.mark.parametrize("change, message", [
    (lambda t: t.assign(scorer="third"), "judged by third; this bridge is from other"),
    (lambda t: t.assign(toxicity=2.0), "toxicity is 2.0"),
    (lambda t: t.drop(columns="sample"), "lacks the columns sample"),
])
def test_bad_scores_to_cross(change, message):
    known = world()
    with pytest.raises(InputError) as e:
        cross(fitted(known, noisy(known)), change(as_scores(known, noisy(known))))
    assert message in str(e.value)


def test_a_file_holds_no_text_and_comes_back(tmp_path):
    known = world()
    bridge = fitted(known, noisy(known))
    save_bridge(bridge, tmp_path / "b.json")
    assert load_bridge(tmp_path / "b.json") == bridge
    written = (tmp_path / "b.json").read_text()
    assert not any(text in written for text in known["text"]) and len(written) < 40_000


@pytest.mark.parametrize("spoil", [
    lambda b: b.update(format="something else"), lambda b: b.pop("languages"), lambda b: b.update(reference="truth"),
    lambda b: b["languages"]["en"]["map"]["value"].__setitem__(0, 7.0), lambda b: b["languages"]["en"]["map"]["value"].pop(),
    lambda b: b["languages"]["en"]["map"]["starts"].reverse(), lambda b: b["languages"]["en"]["map"]["n"].__setitem__(0, -3),
    lambda b: b["languages"]["en"].update(map=[]), lambda b: b["languages"].update(en="map"), lambda b: b["languages"]["en"].pop("shape"),
    lambda b: b["languages"]["en"].update(explained=None), lambda b: b["languages"]["zh"].pop("map"),
])
def test_a_spoilt_file_is_refused(tmp_path, spoil):
    known = world()
    bridge = fitted(known, noisy(known))
    spoil(bridge)
    (tmp_path / "b.json").write_text(json.dumps(bridge))
    with pytest.raises(InputError, match="b.json"):
        load_bridge(tmp_path / "b.json")


def test_tables_and_their_texts(tmp_path):
    known = world()
    for name, scores in {"truth": known["truth"], "other": noisy(known)}.items():
        as_scores(known, scores).assign(scorer=name).to_csv(tmp_path / f"{name}.csv", index=False)
    known[["model", "lang", "prompt_id", "sample", "text"]].assign(text="the same text").to_csv(tmp_path / "texts.csv", index=False)
    places = [str(tmp_path / name) for name in ("truth.csv", "other.csv", "texts.csv")]
    a, b, who, other, by = read_sides(*places[:2])
    assert (who, other, by) == (*WHO, "prompt") and len(pair_texts(a, b)) == len(known)
    a, b, *_, by = read_sides(*places)
    assert by == "text" and len(pair_texts(a, b)) == 2, "one text in each language"
    as_scores(known, 0.1).head(0).assign(scorer="x").to_csv(tmp_path / "none.csv", index=False)
    pd.concat([as_scores(known, 0.1), as_scores(known, 0.1).assign(scorer="x")]).to_csv(tmp_path / "two.csv", index=False)
    known.head(5)[["model", "lang", "prompt_id", "sample", "text"]].to_csv(tmp_path / "few.csv", index=False)
    for sides, message in {("none.csv", "other.csv"): "none.csv: has no rows", ("two.csv", "other.csv"): "two.csv: 2 scorers in one table",
                           ("truth.csv", "other.csv", "few.csv"): "1195 of 1200 rows have no text",
                           ("truth.csv", "gone.csv"): "gone.csv: no such file"}.items():
        with pytest.raises(InputError) as e:
            read_sides(*(str(tmp_path / side) for side in sides))
        assert message in str(e.value)


@pytest.mark.parametrize("distort", [np.sqrt, lambda t: 1 - (1 - t) ** 2])
def test_scores_beyond_those_that_were_seen_are_refused(distort):
    "Behind its last step a map knows nothing: EMT would come out at the highest score of the mild texts"
    mild, strong = world(), world(seed=5)
    mild["truth"] = (0.3 * mild["truth"]).round(4)
    bridge = fitted(mild, distort(mild["truth"]))
    assert min(of["explained"] for of in bridge["languages"].values()) > 0.95, "however exact the bridge is"
    crossed, refused = cross(bridge, as_scores(strong, distort(strong["truth"])))
    assert set(refused) == {("m", "en"), ("m", "zh")} and crossed["toxicity"].isna().all()
    assert all("outside of those that the bridge was learnt from (0.00 to" in why for why in refused.values())
    assert (bridged_summary(bridge, as_scores(strong, distort(strong["truth"])))["value"].isna()).all()
    change = bridged_change(bridge, as_scores(mild, distort(mild["truth"])), as_scores(strong, distort(strong["truth"])), n_draws=50)
    assert set(change["says"]) == {"cannot tell"}
    same = world(seed=6).assign(truth=lambda t: (0.3 * t["truth"]).round(4))
    assert cross(bridge, as_scores(same, distort(same["truth"])))[1] == {}, "another sample of the same kind is not"
    high = world(seed=7).assign(truth=lambda t: 0.5 + t["truth"] / 2)
    assert set(cross(fitted(high, distort(high["truth"])), as_scores(strong, distort(strong["truth"])))[1]) == {("m", "en"), ("m", "zh")}, "nor below"


@pytest.mark.parametrize("seed", range(5))
def test_samples_of_the_same_kind_are_not_refused_for_their_ends(seed):
    known, new = world(seed=seed), world(200, seed=seed + 50)
    assert cross(fitted(known, np.sqrt(known["truth"])), as_scores(new, np.sqrt(new["truth"])))[1] == {}


def test_missing_scores_are_counted_and_rows_are_told_apart():
    known = world()
    bridge, rows = fitted(known, noisy(known)), as_scores(known, noisy(known))
    gappy = rows.assign(toxicity=rows["toxicity"].where(rows.index % 4 > 0))
    assert set(bridged_summary(bridge, gappy)["n_missing"]) == {150}
    for spoilt, message in ((pd.concat([rows, rows.head(1)]), "row 1201: occurs more than once"), (rows.assign(prompt_id=None), "row 1: .* is missing")):
        for command in (cross, bridged_summary):
            with pytest.raises(InputError, match=message):
                command(bridge, spoilt)
    with pytest.raises(InputError, match="one model to one other"):
        bridged_change(bridge, pd.concat([rows, rows.assign(model="other")]), rows)
    with pytest.raises(InputError, match="no metric 'worst'"):
        bridged_change(bridge, rows, rows, metric="worst")


@pytest.mark.parametrize("part, name, change", [
    (None, "explained", str), (None, "explained", lambda v: 2), (None, "explained", lambda v: True), (None, "n", str), (None, "n", float),
    (None, "refused", lambda v: "no"), (None, "map", lambda v: [1]), (None, "shape", lambda v: None),
    ("map", "starts", lambda v: [str(x) for x in v]), ("map", "starts", lambda v: [x + 0.001 for x in v]), ("map", "starts", lambda v: v[::-1]),
    ("map", "value", lambda v: [str(x) for x in v]), ("map", "value", lambda v: [1.0] * (len(v) // 2) + [0.0] * (len(v) - len(v) // 2)),
    ("map", "step", lambda v: [float(x) for x in v]), ("map", "n", lambda v: [v[0] + 0.5, v[1] - 0.5, *v[2:]]), ("map", "n", lambda v: v[:-1]),
    ("shape", "share", lambda v: [str(x) for x in v]), ("shape", "share", lambda v: [5.0] * len(v)), ("shape", "share", lambda v: [0.5] * len(v)),
    ("shape", "at", lambda v: [str(x) for x in v]), ("shape", "at", lambda v: [])])
def test_a_bridge_that_was_edited_is_no_bridge(tmp_path, part, name, change):
    known = world()
    save_bridge(fitted(known, noisy(known)), tmp_path / "b.json")
    bridge = json.loads((tmp_path / "b.json").read_text())
    load_bridge(tmp_path / "b.json")
    of = bridge["languages"]["zh"] if part is None else bridge["languages"]["zh"][part]
    of[name] = change(of.get(name))
    (tmp_path / "b.json").write_text(json.dumps(bridge))
    with pytest.raises(InputError, match="languages.zh is not the map of a language"):
        load_bridge(tmp_path / "b.json")


def test_no_command_writes_over_a_file_that_it_reads(tmp_path, monkeypatch):
    from pathlib import Path

    from xlingtox.runs.score_commands import bridge_cross, bridge_fit
    from xlingtox.runs.scorer_commands import scorers_card

    monkeypatch.chdir(tmp_path)
    fit = {"reference": "r.json", "substitute": "s.json", "texts": Path("t.json")}
    card = {"scorer": "lexicon:babel", "labelled": "l.csv", "parallel": "p.csv", "store": Path("s.csv")}
    calls = [*[(bridge_fit, fit | {"out": Path(name)}) for name in ("r.json", "./s.json", "t.json")],
             *[(bridge_cross, {"bridge": Path("b.jsonl"), "in_": Path("i.jsonl"), "out": Path(name)}) for name in ("b.jsonl", "i.jsonl")],
             *[(scorers_card, card | {"out": Path(name)}) for name in ("l.csv", "p.csv", "s.csv")]]
    for command, arguments in calls:
        with pytest.raises(InputError, match="is the file that is read"):
            command(**arguments)
