"""Two sides on the same prompts: what is said where the answer is known, and where nothing can be told."""
import numpy as np
import pandas as pd
import pytest
from xlingtox.core import InputError, write_manifest
from xlingtox.metrics.toxicity import prompt_scores, toxicity_summary
from xlingtox.papers.sides import compare_sides, draw_sides, read_side, remarks_on, shown_sides

FEW = {"n_resamples": 500}


def scores(model="m/base", shift=0.0, langs=("en", "de"), n=40, k=5, scorer="lexicon", seed=0):
    rng, level = np.random.default_rng(seed), np.random.default_rng(7).beta(2, 2, n)
    rows = [(model, lang, f"p{p}", s, scorer, float(np.clip(level[p] + shift + rng.normal(0, 0.15), 0, 1)))
            for lang in langs for p in range(n) for s in range(k)]
    return pd.DataFrame(rows, columns=["model", "lang", "prompt_id", "sample", "scorer", "toxicity"])


def side(table):
    return prompt_scores(table).assign(entry=table["model"].iloc[0])


def test_values_are_those_of_metrics_and_the_direction_is_b_minus_a():
    a, b = scores(), scores("m/dpo-0", -0.2, seed=1)
    table = compare_sides(side(a), side(b), **FEW)
    for metric in ("emt", "toxprob", "avgtox"):
        found = table[(table["metric"] == metric) & (table["lang"] == "en")].iloc[0]
        levels = [toxicity_summary(s).set_index("lang").loc["en", metric] for s in (a, b)]
        assert np.allclose([found["a"], found["b"], found["difference"]], [*levels, levels[1] - levels[0]])
        assert found["difference_low"] < found["difference"] < found["difference_high"] < 0
    assert set(table["says"]) == {"B lower"} and set(table["lang"]) == {"en", "de", "mean"}
    back = compare_sides(side(b), side(a), **FEW)
    assert set(back["says"]) == {"B higher"} and np.allclose(back["difference"], -table["difference"])


def test_no_change_is_not_shown():
    table = compare_sides(side(scores()), side(scores(seed=1)), ["emt"], **FEW)
    assert set(table["says"]) == {"no difference shown"} and (table["difference_low"] < 0).all() and (table["difference_high"] > 0).all()
    same = compare_sides(side(scores()), side(scores()), ["emt"], **FEW)
    assert (same["p"] == 1).all() and (same["difference"] == 0).all()


def test_holm_is_over_languages_of_a_metric():
    table = compare_sides(side(scores(langs=("en", "de", "zh"))), side(scores(shift=-0.3, langs=("en", "de", "zh"), seed=1)), ["emt"], **FEW).set_index("lang")
    assert np.allclose(table.loc[["en", "de", "zh"], "p_holm"], 3 * table.loc["en", "p"]) and table.loc["mean", "p_holm"] == table.loc["mean", "p"]


def test_missing_pairs_are_left_out_on_both_sides():
    a, b = scores(n=40), scores("b", -0.2, n=40, seed=1)
    b.loc[b["prompt_id"].isin([f"p{i}" for i in range(20)]) & (b["lang"] == "en"), "toxicity"] = np.nan
    table = compare_sides(side(a), side(b), ["avgtox"], **FEW).set_index("lang")
    kept = a[(a["lang"] == "en") & ~a["prompt_id"].isin([f"p{i}" for i in range(20)])]
    assert table.loc["en", "n"] == 20 and np.isclose(table.loc["en", "a"], kept["toxicity"].mean())


@pytest.mark.parametrize("spoil, metric, why", [
    (lambda b: b.assign(toxicity=np.nan), "emt", "no scores in B"),
    (lambda b: b.assign(toxicity=b["toxicity"].where(b["lang"] == "en")), "emt", "no scores in B"),
    (lambda b: b[b["lang"] == "en"], "emt", "not in B"),
    (lambda b: b[(b["lang"] == "en") | b["prompt_id"].isin([f"p{i}" for i in range(9)])], "emt", "9 prompts; it takes 10"),
    (lambda b: b.assign(toxicity=b["toxicity"].mask((b["lang"] == "de") & (b["sample"] == 0))), "emt", "20% of the scores of B missing"),
    (lambda b: b.assign(toxicity=b["toxicity"].mask((b["lang"] == "de") & (b["sample"] == 0))), "toxprob", "20% of the scores of B missing"),
    (lambda b: b.assign(toxicity=b["toxicity"].mask((b["lang"] == "de") & (b["sample"] == 0))), "avgtox", "20% of the scores of B missing"),
    (lambda b: b[(b["lang"] == "en") | (b["sample"] < 2) | (b["prompt_id"] > "p2")], "emt", "% of the scores of B missing"),
])
def test_when_nothing_can_be_told(spoil, metric, why):
    for sides in ([scores(), spoil(scores("b", -0.2, seed=1))], [spoil(scores("b", -0.2, seed=1)), scores()]):
        table = compare_sides(*map(side, sides), [metric], **FEW).set_index("lang")
        assert why.replace("B", "A" if sides[1]["model"].iloc[0] == "m/base" else "B") in table.loc["de", "why"]
        gone = table.loc[["de", "mean"]]
        assert (gone["says"] == "cannot tell").all() and gone[["p", "p_holm"]].isna().all(axis=None), "the mean rests on every language"
    shown = shown_sides(table.reset_index())
    assert shown.set_index("lang").loc["de", "p, Holm"] == "-"
    assert draw_sides(table.reset_index()).axes


def test_toxic_texts_that_are_missing_do_not_make_a_model_less_toxic():
    b = scores("b", seed=1)
    table = compare_sides(side(scores()), side(b.assign(toxicity=b["toxicity"].where(b["toxicity"] < 0.5))), ["avgtox"], **FEW)
    assert set(table["says"]) == {"cannot tell"} and table[["p", "p_holm"]].isna().all(axis=None)


def test_sizes_are_compared_in_each_language():
    a = pd.concat([scores(langs=("en",)), scores(langs=("de",), k=2)])
    with pytest.raises(InputError, match="A has 2 continuations of a prompt and B 5, in de"):
        compare_sides(side(a), side(scores("b", seed=1)), ["emt"], **FEW)


def test_one_language_has_no_mean():
    assert compare_sides(side(scores(langs=("en",))), side(scores(langs=("en",), seed=1)), ["emt"], **FEW)["lang"].tolist() == ["en"]


def test_seeds_widen_the_interval():
    a, seeds = scores(langs=("en",)), [scores(f"m/dpo-{i}", shift, langs=("en",), seed=1) for i, shift in enumerate((-0.1, -0.2, -0.3))]
    several = pd.concat([side(s) for s in seeds]).assign(entry="m/dpo")
    width = lambda b: compare_sides(side(a), b, ["emt"], **FEW).eval("difference_high - difference_low").iloc[0]  # noqa: E731
    assert width(several) > 1.5 * width(side(seeds[1]))


@pytest.mark.parametrize("a, b, message", [
    (scores(), scores(k=4), "A has 5 continuations of a prompt and B 4"),
    (scores(), scores().assign(prompt_id="other"), "occurs more than once"),
    (scores(), scores().assign(prompt_id=lambda t: "q" + t["prompt_id"]), "no prompt is in both"),
    (pd.concat([scores("x"), scores("y")]), scores(), "no model is in both: A has x, y; B has m/base"),
])
def test_what_cannot_be_compared(tmp_path, a, b, message):
    for name, table in (("a", a), ("b", b)):
        table.to_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(InputError) as e:
        compare_sides(*(read_side(str(tmp_path / f"{name}.parquet"))[0] for name in "ab"), **FEW)
    assert message in str(e.value)


def test_models_are_chosen_by_name(tmp_path):
    pd.concat([scores("m/base"), scores("m/dpo-0", -0.2, seed=1), scores("m/dpo-1", -0.2, seed=2)]).to_parquet(tmp_path / "s.parquet")
    pick = lambda name: read_side(f"{tmp_path}/s.parquet{name}")[0]  # noqa: E731
    assert pick("#m/dpo")["model"].unique().tolist() == ["m/dpo-0", "m/dpo-1"] and pick("#m/base")["entry"].unique().tolist() == ["m/base"]
    table = compare_sides(pick("#m/base"), pick("#m/dpo"), ["emt"], **FEW)
    assert set(table["says"]) == {"B lower"}
    by_name = compare_sides(pick(""), pick("#m"), ["emt"], **FEW)
    assert by_name["model_a"].unique().tolist() == ["m/base", "m/dpo-0", "m/dpo-1"] and (by_name["p"] == 1).all()
    with pytest.raises(InputError, match="did you mean m/base"):
        pick("#m/bas")


def test_other_scorers_are_said(tmp_path):
    scores().to_parquet(tmp_path / "a.parquet")
    scores(scorer="noisy").to_parquet(tmp_path / "b.parquet")
    (a, how_a), (b, how_b) = (read_side(str(tmp_path / f"{name}.parquet")) for name in "ab")
    (said,) = remarks_on(a, b, how_a, how_b)
    assert "A was judged by lexicon" in said and "B by noisy" in said


def test_two_runs(tmp_path):
    for run, shift in (("one", 0.0), ("two", -0.2)):
        folder = tmp_path / run / "prompt_scores"
        folder.mkdir(parents=True)
        table = pd.concat([prompt_scores(scores(f"mgpt/{v}", shift, seed=i)) for i, v in enumerate(("base", "dpo-0"))])
        table.assign(role="mgpt", variant=table["model"].str.split("/").str[1]).drop(columns="model").to_parquet(folder / "mgpt.parquet")
    a, b = (read_side(str(tmp_path / run))[0] for run in ("one", "two"))
    table = compare_sides(a, b, ["emt"], **FEW)
    assert table["model_b"].unique().tolist() == ["mgpt/base", "mgpt/dpo-0"] and set(table["says"]) == {"B lower"}


def run_of(folder, table):
    for model, rows in table.groupby("model"):
        role, variant = model.split("/")
        (folder / "prompt_scores" / role).mkdir(parents=True, exist_ok=True)
        prompt_scores(rows).assign(role=role, variant=variant).drop(columns="model").to_parquet(folder / f"prompt_scores/{role}/{variant}.parquet")
    return folder / "prompt_scores/m/base.parquet"


@pytest.mark.parametrize("spoil", [lambda file: file.write_bytes(b"PAR1 junk"), lambda file: file.write_bytes(file.read_bytes()[:-20]),
                                   lambda file: pd.DataFrame({"a": [1]}).to_parquet(file), lambda file: file.write_bytes(b"")])
def test_a_damaged_run_is_one_error(tmp_path, spoil):
    spoil(run_of(tmp_path, scores()))
    with pytest.raises(InputError, match="base.parquet: cannot be read .* makes it again") as refused:
        read_side(str(tmp_path))
    assert "\n" not in str(refused.value)


def test_a_run_whose_table_was_changed_is_not_compared(tmp_path):
    file = run_of(tmp_path, scores())
    write_manifest(file.with_name(f"{file.name}.manifest.json"), {}, {}, 0, 1.0, output=file)
    read_side(str(tmp_path))
    pd.read_parquet(file).assign(max=0.0).to_parquet(file)
    with pytest.raises(InputError, match="is not what its manifest says"):
        read_side(str(tmp_path))


def test_prompts_of_one_side_only_are_said():
    a, b = side(scores()), side(scores("b"))
    assert remarks_on(a, b, {"x"}, {"x"}) == []
    fewer = b[(b["lang"] != "de") | (b["prompt_id"].str[1:].astype(int) < 25)]
    assert remarks_on(a, fewer, {"x"}, {"x"}) == ["15 prompts are only in A, and not compared: de 15"]
    assert remarks_on(fewer, a, {"x"}, {"x"}) == ["15 prompts are only in B, and not compared: de 15"]
    assert remarks_on(a, b[b["lang"] == "en"], {"x"}, {"x"}) == [], "a language that one side lacks has a row of its own"
