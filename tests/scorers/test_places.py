"""Folders whose names have a #, a space, a quote or letters of any script, wherever a spec names one."""
import json

import pytest
from xlingtox.core import InputError
from xlingtox.papers.sides import read_side
from xlingtox.scorers.archive import export_scores
from xlingtox.scorers.by_name import check_spec, load_scorer, score_generations
from xlingtox.scorers.catalogue import split_place
from xlingtox.scorers.crossing import read_sides
from xlingtox.scorers.guard import read_card
from xlingtox.scorers.store import ScoreStore

ODD = ["a#b", "#", "a#b#c", "My Runs", "user's folder", "модели 猫 {y} 100%", "c;d & e", "f:g@h"]


@pytest.fixture(params=ODD)
def odd(request, tmp_path):
    (tmp_path / request.param).mkdir()
    return tmp_path / request.param


def test_the_longest_beginning_that_is_there_is_the_place(odd):
    (odd / "m").mkdir()
    assert split_place(f"{odd}/m#toxic") == (f"{odd}/m", "toxic") and split_place(f"{odd}/m") == (f"{odd}/m", "")
    assert split_place(f"{odd}/m#a#b.json") == (f"{odd}/m", "a#b.json")


def test_archives_and_tables(odd):
    import pandas as pd

    table = pd.DataFrame([("m", "en", f"p{i}", 0, f"text {i} liar") for i in range(3)], columns=["model", "lang", "prompt_id", "sample", "text"])
    store = ScoreStore(odd / "s.sqlite")
    scores = score_generations(table, load_scorer("lexicon:babel"), store)
    export_scores(store, odd / "arch")
    scores.to_csv(odd / "s.csv", index=False)
    table.to_csv(odd / "g.csv", index=False)
    for spec in (f"archive:{odd}/arch", f"archive:{odd}/arch#lexicon", f"noisy:archive:{odd}/arch#lexicon"):
        check_spec(spec, ["en"])
        load_scorer(spec).score(["text 1 liar"], "en")
    with pytest.raises(InputError, match="take one scorer"):
        load_scorer(f"archive:{odd}/arch#other")
    a, b, who, _ = read_sides(f"{odd}/arch#lexicon", f"{odd}/s.csv", f"{odd}/g.csv")[:4]
    assert len(a) == len(b) == 3 and who["scorer"] == "lexicon"
    for spec in (f"{odd}/s.csv", f"{odd}/s.csv#m"):
        assert len(read_side(spec)[0]) == 3


def test_models_and_cards(odd):
    (odd / "c").mkdir()
    (odd / "c" / "config.json").write_text(json.dumps({"model_type": "bert", "id2label": {"0": "ok", "1": "toxic"}}))
    check_spec(f"classifier:{odd}/c#toxic", ["en"])
    with pytest.raises(InputError, match="rude"):
        check_spec(f"classifier:{odd}/c#rude", ["en"])
    (odd / "card.json").write_text(json.dumps({"messages": [{"role": "user", "content": "{text}"}], "answer": "", "labels": ["yes", "no"], "toxic": ["yes"]}))
    check_spec(f"guard:{odd}/c#{odd}/card.json", ["en"])
    assert load_scorer(f"openai:http://h/v1/chat/completions#m#{odd}/card.json")._card == read_card(odd / "card.json")
