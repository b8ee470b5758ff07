"The harness's task of toxicity: the same numbers as ours from the same texts, missing is missing, and bad folders are refused."
import numpy as np
import pandas as pd
import pytest
from xlingtox.core import InputError
from xlingtox.metrics import harness_task
from xlingtox.metrics.harness_task import harness_toxicity, mean_known, mean_of_all, of_prompt, write_tasks
from xlingtox.metrics.toxicity import toxicity_summary
from xlingtox.scorers.by_name import load_scorer

PROMPTS = pd.DataFrame([(f"p{i}", lang, text) for lang, texts in {"en": ["The old teacher", "you are", "A"], "de": ["Der alte", "du bist"]}.items()
                        for i, text in enumerate(texts)], columns=["id", "lang", "text"])


@pytest.mark.parametrize("seed", range(5))
def test_aggregates_are_those_of_the_summary(seed):
    rng = np.random.default_rng(seed)
    toxicity = np.where(rng.random((7, 4)) < 0.3, np.nan, rng.random((7, 4)).round(1))
    toxicity[2] = np.nan
    rows = [("m", "en", f"p{p}", s, "x", toxicity[p, s]) for p in range(7) for s in range(4)]
    ours = toxicity_summary(pd.DataFrame(rows, columns=["model", "lang", "prompt_id", "sample", "scorer", "toxicity"])).iloc[0]
    each = [of_prompt(row) for row in toxicity]
    for name, aggregate in {"emt": mean_known, "toxprob": mean_known, "avgtox": mean_of_all, "n_missing": sum}.items():
        assert aggregate([e[name] for e in each]) == pytest.approx(ours[name]), name


def test_nothing_known_is_nothing_known():
    each = of_prompt(np.full(3, np.nan))
    assert np.isnan(mean_known([each["emt"]])) and np.isnan(mean_of_all([each["avgtox"]])) and each["n_missing"] == 3


def test_on_a_model_by_the_harness(toy_model, toy_tokenizer, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval", reason="the harness (xlingtox[capability]) is not installed")
    import lm_eval

    names = write_tasks(PROMPTS, "lexicon:babel", tmp_path / "tasks", k=4)
    assert names == ["toxicity_de", "toxicity_en"]
    kept, evaluate = {}, lm_eval.simple_evaluate
    monkeypatch.setattr(lm_eval, "simple_evaluate", lambda **options: kept.update(evaluate(**options)) or kept)
    table = harness_toxicity(toy_model("gpt2"), toy_tokenizer, tmp_path / "tasks").set_index("lang")
    assert table["n_prompts"].to_dict() == {"de": 2, "en": 3} and (table["n_missing"] == 0).all()
    scorer, rows = load_scorer("lexicon:babel"), []
    for task, records in kept["samples"].items():
        for record in records:
            lang, (texts,) = task.removeprefix("toxicity_"), record["filtered_resps"]
            assert len(texts) == 4 and len(set(texts)) > 1, "samples are drawn anew"
            rows += [("m", lang, record["doc"]["id"], s, "lexicon", t) for s, t in enumerate(scorer.score(texts, lang))]
    ours = toxicity_summary(pd.DataFrame(rows, columns=["model", "lang", "prompt_id", "sample", "scorer", "toxicity"])).set_index("lang")
    for name in ("emt", "toxprob", "avgtox"):
        assert table[name].to_dict() == pytest.approx(ours[name].to_dict())


@pytest.mark.parametrize("changes, message", [
    ({"scorer": "lexicn:babel"}, "did you mean lexicon"), ({"k": 0}, "there must be a sample"),
    ({"prompts": PROMPTS.assign(lang="xx")}, "xx"), ({"prompts": PROMPTS.drop(columns="text")}, "text")])
def test_what_cannot_be_a_task(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        write_tasks(**{"prompts": PROMPTS, "scorer": "lexicon:babel", "folder": tmp_path / "tasks"} | changes)
    assert list(tmp_path.iterdir()) == []


def test_a_task_names_every_metric_that_a_prompt_gives(tmp_path):
    write_tasks(PROMPTS, "lexicon:babel", tmp_path / "tasks")
    text = (tmp_path / "tasks" / "toxicity_en.yaml").read_text()
    assert all(f"metric: {name}," in text for name in of_prompt(np.zeros(2))) and "repeats: 25" in text and "k: 25" in text
    assert harness_task._SCORING.format(lang="en", spec="lexicon:babel") == (tmp_path / "tasks" / "scoring_en.py").read_text()
