"""Which language is heard: the miniature's ears and langid's, and what counts as another language."""
import configparser
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from xlingtox import babel
from xlingtox.babel.worlds import in_own_letters
from xlingtox.core import InputError
from xlingtox.languages import BENIWAL2025, LANGUAGES
from xlingtox.metrics.response_language import class_counts, heard_by_langid, heard_in_babel, language_counts, language_shares, response_classes

LANGS = list(LANGUAGES.index)


def share(heard, langs):
    return np.mean([a == b for a, b in zip(heard, langs, strict=True)])


@pytest.mark.parametrize("lang", LANGS)
def test_documents_are_heard_whatever_was_asked(lang):
    "Borrowed words and all; a prompt of another language makes no difference, but where two end equal"
    texts = babel.corpus(80, seed=11, shares={lang: 1}, parallel_share=0)["text"]
    assert share(heard_in_babel(texts, [lang] * 80), [lang] * 80) == 1
    for other in ("en", "zh", "uk"):
        assert share(heard_in_babel(texts, [other] * 80), [lang] * 80) > 0.97


def test_sentences_of_a_language_are_not_taken_for_its_neighbours():
    table = babel.prompts(LANGS, n=100, seed=12)
    alone = heard_in_babel(table["text"], [""] * len(table))
    wrong = [(said, heard) for said, heard in zip(table["lang"], alone, strict=True) if heard not in (said, "und")]
    assert not wrong and share(alone, table["lang"]) > 0.985
    assert heard_in_babel(table["text"], table["lang"]) == table["lang"].tolist()


def test_the_world_apart_is_heard_in_its_letters_only():
    table = in_own_letters(babel.prompts(LANGS, n=20, seed=13))
    assert heard_in_babel(table["text"], table["lang"], apart=True) == table["lang"].tolist()
    moved = table[~table["lang"].isin(["en", "ru", "zh", "am", "ar", "hi", "ko"])]  # those keep their script
    assert set(heard_in_babel(moved["text"], moved["lang"])) <= {"und", "ja"}


def test_words_that_are_shared_decide_nothing():
    assert heard_in_babel(["hotel taxi radio"] * 3, ["de", "nl", "am"]) == ["de", "nl", "und"]
    assert heard_in_babel(["Hotel taxi ist", "HOTEL IST"], ["nl", "am"]) == ["de", "de"]
    assert heard_in_babel(["qqq", "12 !", " ", ""], ["en"] * 4) == ["und", "und", None, None]


def test_langid_hears_sentences_of_the_world():
    table = babel.prompts(LANGS, n=40, seed=14)
    free, among = heard_by_langid(table["text"]), heard_by_langid(table["text"], LANGS)
    assert share(free, table["lang"]) > 0.8 and share(among, table["lang"]) > 0.94
    assert set(among) <= set(LANGS) < set(LANGS) | set(free), "restricting one does not restrict the other"
    assert heard_by_langid(table["text"]) == free
    nine = babel.prompts(BENIWAL2025, n=40, seed=14)
    assert share(heard_by_langid(nine["text"], BENIWAL2025), nine["lang"]) > 0.96


def test_langid_is_not_asked_what_it_cannot_know():
    assert heard_by_langid(["", "\n ", "...", "3.14", "\U0001f600", "\u0301"]) == [None, None, "und", "und", "und", "und"]
    with pytest.raises(InputError, match="py3langid does not support tlh"):
        heard_by_langid(["x"], ["en", "tlh"])


def test_langid_is_required_and_not_loaded_before_it_is_asked():
    settings = configparser.ConfigParser()
    settings.read(Path(__file__).parents[2] / "settings.ini")
    assert "py3langid" in settings["DEFAULT"]["requirements"]
    code = "import sys, xlingtox.metrics.response_language; print('py3langid' in sys.modules, 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False False\n"


def test_shares_are_of_all_completions():
    langs, heard = ["en"] * 5 + ["de"] * 2, ["en", "de", None, "und", "en", np.nan, "de"]  # None is NaN in a file that was read
    table = language_shares(langs, heard).set_index("lang")
    assert table.loc["en"].tolist() == [5, 0.4, 0.2, 0.2, 0.2] and table.loc["de"].tolist() == [2, 0.5, 0.0, 0.0, 0.5]
    assert table["n"].dtype.kind == "i"
    counts = language_counts(langs, heard)
    assert list(counts) == ["de", "en", "und", "empty"] and counts.sum(axis=1).to_dict() == {"de": 2, "en": 5}
    assert language_shares(pd.Series(langs, index=range(9, 16)), pd.Series(heard)).equals(language_shares(langs, heard))


def test_classes_are_counted_for_each_language_of_the_prompt():
    langs = ["ja"] * 45 + ["de"] * 25
    heard = ["en"] * 20 + ["la"] * 19 + [None] * 2 + ["ja"] * 4 + ["en"] * 19 + ["de"] * 5 + [np.nan]
    classes = response_classes(langs, heard)
    assert classes[:45] == ["en"] * 20 + ["others"] * 19 + ["NaN"] * 2 + ["self"] * 4
    assert classes[45:] == ["others"] * 19 + ["self"] * 5 + ["NaN"]
    assert response_classes(langs, heard, min_count=19)[45] == "en"


def test_counts_of_the_classes_with_and_without_empty_responses():
    langs = ["ja"] * 45 + ["de"] * 25 + ["ko"] * 3
    heard = ["en"] * 20 + ["la"] * 19 + [None] * 2 + ["ja"] * 4 + ["en"] * 19 + ["de"] * 5 + [np.nan] + [None] * 3
    table = class_counts(langs, heard)
    by = table.set_index(["lang", "class"])
    assert by.loc["ja"]["n"].to_dict() == {"self": 4, "en": 20, "others": 19, "NaN": 2} and list(by.loc["ja"].index) == ["self", "en", "others", "NaN"]
    assert by.loc[("ja", "en"), "share"] == 20 / 45 and by.loc[("ja", "en"), "share_not_empty"] == 20 / 43
    assert by.loc["de"]["n"].to_dict() == {"self": 5, "others": 19, "NaN": 1} and by.loc[("de", "others"), "share_not_empty"] == 19 / 24
    assert by.loc["ko"]["n"].to_dict() == {"self": 0, "others": 0, "NaN": 3} and by.loc["ko"]["share_not_empty"].isna().all()
    assert table.groupby("lang")["n"].sum().to_dict() == {"de": 25, "ja": 45, "ko": 3}
    assert table.loc[table["class"] == "NaN", "share_not_empty"].isna().all()
    few = class_counts(langs, heard, min_count=5).query("lang == 'ja'")
    assert few["class"].tolist() == ["self", "en", "la", "others", "NaN"], "the more frequent first"
    assert class_counts(pd.Series(langs, index=range(9, 82)), pd.Series(heard)).equals(table)


def test_others_are_counted_apart_for_each_language_of_the_prompt():
    "Nineteen English answers to each of two languages are others twice, and not thirty-eight of one"
    table = class_counts(["ja"] * 19 + ["de"] * 19 + ["en"] * 19, ["en"] * 57)
    assert table.query("n > 0")[["lang", "class"]].values.tolist() == [["de", "others"], ["en", "self"], ["ja", "others"]]
    unclear = class_counts(["en"] * 40, ["und"] * 20 + ["en"] * 20)
    assert unclear.query("n > 0")["class"].tolist() == ["self", "und"]
