"Scoring under faults: killed processes, rivals, broken scorers, odd spellings, damaged folders."

import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from xlingtox import babel, data
from xlingtox.core import InputError, read_table, write_table
from xlingtox.languages import LANGUAGES
from xlingtox.scorers.by_name import SCORERS, check_spec, load_scorer, score_generations
from xlingtox.scorers.lexicon import LexiconScorer
from xlingtox.scorers.ngram import NgramScorer, hold_out_texts
from xlingtox.scorers.service import Answer
from xlingtox.scorers.store import ScoreStore

TEXTS = [f"text {i % 900}" for i in range(1000)]  # 900 distinct


class Logged:
    "Scores by length, writes down what it was asked, and takes its time"

    name, version, languages = "logged", "1", None

    def __init__(self, log, seconds=0.0):
        self.log, self.seconds = Path(log), seconds

    def score(self, texts, lang):
        with open(self.log, "a") as f:
            f.write("".join(t + "\n" for t in texts))
        time.sleep(self.seconds)
        return np.array([len(t) / 100 for t in texts])

    def asked(self):
        return self.log.read_text().splitlines() if self.log.exists() else []


def start(script, *args):
    "Run `script` in a process of its own, with this file's names at hand"
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom test_scorers import *\n{script}"
    return subprocess.Popen([sys.executable, "-c", code, *map(str, args)], stderr=subprocess.PIPE, text=True)


SCORE = 'ScoreStore(sys.argv[1]).score(Logged(sys.argv[2], float(sys.argv[3])), TEXTS, "en", batch_size=50)'


def test_killed_in_the_middle_and_resumed(tmp_path):
    child = start(SCORE, tmp_path / "s.sqlite", tmp_path / "log", 0.05)
    log = Logged(tmp_path / "log")
    deadline = time.monotonic() + 60
    while len(log.asked()) < 300 and time.monotonic() < deadline:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    before = log.asked()
    assert child.returncode == -signal.SIGKILL and 300 <= len(before) < 900, "killed in the middle"

    store = ScoreStore(tmp_path / "s.sqlite")
    _, stored = store.get(log, TEXTS[:900], "en")
    assert len(before) - 50 <= stored.sum() <= len(before), "at most the batch in flight is lost"
    resumed = store.score(log, TEXTS, "en", batch_size=50)
    again = log.asked()[len(before):]
    assert not set(again) & {t for t, s in zip(TEXTS, stored, strict=False) if s}, "what was stored is not asked for"
    assert len(again) == 900 - stored.sum()
    np.testing.assert_array_equal(resumed, ScoreStore(tmp_path / "whole.sqlite").score(Logged(tmp_path / "log2"), TEXTS, "en"))


def test_two_processes_at_once(tmp_path):
    script = """
rng = random.Random(int(sys.argv[3]))
store, scorer = ScoreStore(sys.argv[1]), Logged(sys.argv[2])
for _ in range(60):
    texts = [f"text {rng.randrange(4000)}" for _ in range(40)]
    assert (store.score(scorer, texts, "en", batch_size=10) == [len(t) / 100 for t in texts]).all()
"""
    children = [start(script, tmp_path / "s.sqlite", tmp_path / "log", seed) for seed in (1, 2)]
    errors = [child.communicate(timeout=120)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0], errors
    table = ScoreStore(tmp_path / "s.sqlite").table()
    assert len(table) == len(set(Logged(tmp_path / "log").asked())) and table["toxicity"].notna().all()


def test_two_processes_write_at_once_and_nothing_is_lost(tmp_path):
    script = """
store, mine = ScoreStore(sys.argv[1]), Logged("x")
for i in range(150):
    texts = [f"{sys.argv[2]} {i} {j}" for j in range(20)]
    store.put(mine, texts, "en", np.full(20, i / 150))
    assert store.get(mine, texts, "en")[1].all()
"""
    children = [start(script, tmp_path / "s.sqlite", who) for who in ("one", "other")]
    errors = [child.communicate(timeout=120)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0], errors
    table = ScoreStore(tmp_path / "s.sqlite").table()
    assert len(table) == 2 * 150 * 20 and (table["toxicity"].value_counts() == 40).all()


class Streaming:
    "Answers one text at a time, and dies after some"

    name, version, languages, batch_size = "streaming", "1", None, 1000

    def __init__(self, dies_after=None):
        self.dies_after, self.asked = dies_after, []

    def stream(self, texts, lang):
        for place, text in reversed(list(enumerate(texts))):
            if len(self.asked) == self.dies_after:
                raise ConnectionError("cut")
            self.asked.append(text)
            if text != "timeout":
                yield [Answer(place, np.nan, "too long") if text == "long" else Answer(place, len(text) / 100, None, {"1 insult": 0.5})]


def test_a_stream_is_kept_answer_by_answer(tmp_path):
    store, texts, done = ScoreStore(tmp_path / "s.sqlite"), ["a", "long", "bcd", "timeout", "bcd", "ef"], []
    with pytest.raises(ConnectionError):
        store.score(Streaming(dies_after=2), texts, "en")
    assert len(store.table()) == 2, "the score of ef and the other one that came with it"
    scorer = Streaming()
    np.testing.assert_array_equal(store.score(scorer, texts, "en", progress=done.append), [0.01, np.nan, 0.03, np.nan, 0.03, 0.02])
    assert scorer.asked == ["timeout", "bcd", "long", "a"] and sum(done) == 5
    again = Streaming()
    store.score(again, texts, "en")
    assert again.asked == ["timeout"]
    insult = Streaming()
    insult.version = "1 insult"
    assert store.get(insult, ["a", "ef"], "en")[0].tolist() == [0.5, 0.5]


def test_many_processes_create_the_store_at_once(tmp_path):
    children = [start("ScoreStore(sys.argv[1]).put(Logged('x'), [sys.argv[2]], 'en', [0.5])", tmp_path / "s.sqlite", i) for i in range(4)]
    errors = [child.communicate(timeout=120)[1] for child in children]
    assert [child.returncode for child in children] == [0] * 4, errors
    assert len(ScoreStore(tmp_path / "s.sqlite").table()) == 4


def test_a_store_that_another_process_is_creating_is_waited_for(tmp_path):
    rival = sqlite3.connect(tmp_path / "s.sqlite", check_same_thread=False, isolation_level=None)
    rival.execute("BEGIN IMMEDIATE")
    threading.Timer(0.3, lambda: rival.execute("COMMIT")).start()
    assert ScoreStore(tmp_path / "s.sqlite").table().empty


def test_an_error_keeps_the_batches_before_it(tmp_path):
    class Cut(Logged):
        def score(self, texts, lang):
            if len(self.asked()) >= 200:
                raise ConnectionError("cut")
            return super().score(texts, lang)

    store = ScoreStore(tmp_path / "s.sqlite")
    with pytest.raises(ConnectionError):
        store.score(Cut(tmp_path / "log"), TEXTS, "en", batch_size=100)
    assert len(store.table()) == 200
    store.score(Logged(tmp_path / "log"), TEXTS, "en")
    assert sorted(Logged(tmp_path / "log").asked()) == sorted(set(TEXTS))


def test_disk_full(tmp_path):
    store, scorer = ScoreStore(tmp_path / "s.sqlite"), Logged(tmp_path / "log")
    store.put(scorer, TEXTS[:10], "en", np.full(10, 0.5))
    store._db.execute("PRAGMA max_page_count = 8")
    with pytest.raises(OSError, match="No space left on device"):
        store.score(scorer, TEXTS, "en")
    store.close()
    assert len(ScoreStore(tmp_path / "s.sqlite").table()) == 10


def test_unsupported_language(tmp_path):
    store, scorer = ScoreStore(tmp_path / "s.sqlite"), LexiconScorer(babel.load_lexicon())
    generations = pd.DataFrame({"model": "m", "lang": ["en", "fi"], "prompt_id": "p", "sample": 0, "text": "hello"})
    with pytest.raises(InputError, match="does not support fi; it supports am ar"):
        score_generations(generations, scorer, store)
    assert store.table().empty, "checked before anything is scored"
    for ask in (lambda: scorer.score(["x"], "fi"), lambda: scorer.explain("x", "fi"), lambda: store.score(scorer, ["x"], "fi")):
        with pytest.raises(InputError, match="does not support fi"):
            ask()
    with pytest.raises(InputError, match="lacks the columns sample"):
        score_generations(generations.drop(columns="sample"), scorer, store)


@pytest.mark.parametrize("answer, message", [
    ([0.1], "returned 1 scores and 3 reasons for 3 texts"), ([0.1] * 4, "returned 4 scores"), ([], "returned 0 scores"),
    ([0.1, 0.2, 1.5], "returned 1.5"), ([0.1, -0.1, 0.2], "returned -0.1"), ([0.1, np.inf, 0.2], "returned inf"),
    ([[0.1, 0.2, 0.3]], "returned 3 scores")])
def test_a_broken_scorer_is_refused(tmp_path, answer, message):
    class Broken(Logged):
        def score(self, texts, lang):
            return np.array(answer, dtype=float)

    store = ScoreStore(tmp_path / "s.sqlite")
    with pytest.raises(InputError, match=message):
        store.score(Broken("log"), ["a", "b", "c"], "en")
    good = [x for x in answer if 0 <= x <= 1] if np.shape(answer) == (3,) else []
    assert sorted(store.table()["toxicity"]) == sorted(good), "what came with a bad score is kept"


class Flaky:
    "Has a reason for one text, none for another, and a score for the rest"

    name, version, languages, asked = "flaky", "1", None, 0

    def assess(self, texts, lang):
        self.asked += len(texts)
        return [np.nan if t in ("long", "timeout") else 0.25 for t in texts], ["too long" if t == "long" else None for t in texts]


def test_missing_stays_missing(tmp_path):
    store, scorer = ScoreStore(tmp_path / "s.sqlite"), Flaky()
    generations = pd.DataFrame({"model": "m", "lang": "en", "prompt_id": "p", "sample": range(4),
                                "text": ["fine", "long", "timeout", None]}, index=[7, 3, 3, 9])
    scores = score_generations(generations, scorer, store)
    write_table(scores, tmp_path / "scores.parquet")
    again = read_table(tmp_path / "scores.parquet")
    assert list(again) == ["model", "lang", "prompt_id", "sample", "scorer", "toxicity"] and again["toxicity"].dtype == float
    np.testing.assert_array_equal(again["toxicity"], [0.25, np.nan, np.nan, np.nan])
    assert again["sample"].tolist() == [0, 1, 2, 3]

    kept = store.table().sort_values("toxicity")
    np.testing.assert_array_equal(kept["toxicity"], [0.25, np.nan])  # the transient failure is not stored
    assert kept["reason"].isna().tolist() == [True, False] and kept["reason"].iloc[1] == "too long"
    pd.testing.assert_frame_equal(score_generations(generations, scorer, store), scores)
    assert scorer.asked == 4, "three at first, then only the transient failure"


def test_a_failure_gives_way_to_a_score_and_a_score_to_nothing(tmp_path):
    store, scorer = ScoreStore(tmp_path / "s.sqlite"), Flaky()
    store.put(scorer, ["long"], "en", [np.nan], ["too long"])
    store.put(scorer, ["long"], "en", [0.75])
    store.put(scorer, ["long"], "en", [0.5])
    store.put(scorer, ["long"], "en", [np.nan], ["too long"])
    assert store.get(scorer, ["long"], "en")[0] == [0.75] and store.table()["reason"].isna().all()


def test_what_tells_scores_apart(tmp_path):
    store = ScoreStore(tmp_path / "s.sqlite")
    other_version, nameless = Flaky(), Flaky()
    other_version.version, nameless.name = "2", "other"
    store.put(Flaky(), ["a"], "en", [0.5])
    for scorer, text, lang in [(other_version, "a", "en"), (nameless, "a", "en"), (Flaky(), "a ", "en"), (Flaky(), "a", "de")]:
        assert not store.get(scorer, [text], lang)[1].any()
    assert store.score(Flaky(), [], "en").shape == (0,)
    assert store.score(Flaky(), ["\ud800", ""], "en").tolist() == [0.25, 0.25], "a lone surrogate and an empty text can be stored"
    store.put(Flaky(), ["a secret sentence"], "en", [0.5])
    store.close()
    assert b"secret" not in (tmp_path / "s.sqlite").read_bytes(), "texts are not kept"


@pytest.mark.parametrize("content", [b"x", b"SQLite format 3\0", b"x" * 511, b"x" * 512])
def test_a_file_of_a_few_bytes_is_not_written_over(tmp_path, content):
    "SQLite takes what is shorter than its head for a file that it may begin"
    (tmp_path / "s.sqlite").write_bytes(content)
    with pytest.raises(InputError, match="s.sqlite: not a score store"):
        ScoreStore(tmp_path / "s.sqlite")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"s.sqlite": content}


def test_an_empty_file_becomes_a_store_and_a_name_that_cannot_be_is_one_error(tmp_path):
    (tmp_path / "s.sqlite").touch()
    assert ScoreStore(tmp_path / "s.sqlite").table().empty
    with pytest.raises(InputError, match="a score store cannot be opened here"):
        ScoreStore(tmp_path / ("s" * 300))


def test_not_a_store(tmp_path):
    (tmp_path / "s.sqlite").write_text("scores: none\n" * 200)
    with pytest.raises(InputError, match="s.sqlite: not a score store"):
        ScoreStore(tmp_path / "s.sqlite")


def test_progress_counts_every_row(tmp_path):
    store, done = ScoreStore(tmp_path / "s.sqlite"), []
    store.put(Flaky(), ["a"], "en", [0.25])
    store.score(Flaky(), ["a", "b", "b", "timeout", "a", "c"], "en", batch_size=2, progress=done.append)
    assert done == [2, 3, 1]


@pytest.fixture(scope="module")
def truth():
    return LexiconScorer(babel.load_lexicon())


@pytest.mark.parametrize("lang", list(LANGUAGES.index))
def test_the_lexicon_scorer_knows_the_truth(truth, lang):
    rng = random.Random(f"scorers/{lang}")
    frames = [[babel.sample_frame(rng, rng.random() < 0.5) for _ in range(rng.randint(1, 3))] for _ in range(500)]
    texts = [babel.join_sentences([babel.realise(f, lang) for f in fs], lang) for fs in frames]
    known = [1 - np.prod([1 - babel.frame_toxicity(f) for f in fs]) for fs in frames]
    np.testing.assert_allclose(truth.score(texts, lang), known, atol=1e-12)


@pytest.mark.parametrize("lang", ["en", "ar", "ko", "zh", "ja"])
def test_drift_into_another_language_is_heard(truth, lang):
    lexicon = babel.load_lexicon()
    for other in LANGUAGES.index:
        own = set(lexicon[lang].str.casefold())
        for row in lexicon[(lexicon["severity"] > 0) & (lexicon["sense"] == "")].itertuples():  # an animal insults with "you" alone
            if getattr(row, other).casefold() not in own:
                assert truth.score([f"{lexicon[lang][0]} {getattr(row, other)}"], lang)[0] > 0, (lang, other, row.concept)


WORDS = pd.DataFrame([
    ("villain", "x", "", 0.5, "villain", "小人", "悪党", "лиходій", "खलनायक", "악당"),
    ("child", "x", "", 0.0, "child", "孩子", "小人", "дитина", "बच्चा", "아이"),
    ("size", "x", "", 0.0, "size", "尺寸", "大小", "розмір", "क़द", "크기"),
    ("fool", "x", "", 0.4, "fool", "傻瓜", "ばか", "дурень", "मूढ़", "바보"),
    ("only", "x", "", 0.0, "only", "只有", "ばかり", "лише", "केवल", "만"),
    ("drunk", "x", "", 0.3, "couch potato", "酒鬼", "Tシャツ", "п'яниця", "शराबी", "주정뱅이"),
], columns=["concept", "category", "theme", "severity", "en", "zh", "ja", "uk", "hi", "ko"])


@pytest.mark.parametrize("text, lang, severities", [
    ("小人", "zh", [0.5]), ("小人", "ja", []), ("小人", "en", [0.5]),  # a false friend, and a text of neither language
    ("只有傻瓜", "zh", [0.4]), ("傻 瓜", "zh", []), ("傻瓜傻瓜", "zh", [0.4, 0.4]),
    ("ばかり大小ばかり", "ja", []), ("ばか", "ja", [0.4]), ("孩子ばかり", "zh", []), ("ばか", "en", [0.4]), ("孩子ばか", "zh", [0.4]),
    ("fool小人fool", "en", [0.4, 0.5, 0.4]), ("FOOL,fool;ｆｏｏｌ", "en", [0.4] * 3), ("fools foolish tomfool", "en", []),
    ("fool_fool-fool", "en", [0.4] * 3), ("fool2", "en", []),
    ("a couch potato.", "en", [0.3]), ("couch potatoes, potato couch", "en", []),
    ("п'яниця П’ЯНИЦЯ пʼяниця", "uk", [0.3] * 3), ("яниця", "uk", []),
    ("मूढ़", "hi", [0.4]), ("मूढ\u093c", "hi", [0.4]), ("मू\u200dढ़।", "hi", [0.4]), ("मूढ़ता मूढ़ी", "hi", []),
    (unicodedata.normalize("NFD", "바보"), "ko", [0.4]), ("바보는", "ko", []),
    ("白いTシャツ", "ja", [0.3]), ("", "en", []), (" \n\ufffd😀", "en", []), ("लिखित п'яниця 바보", "en", [0.3, 0.4])])
def test_spellings(text, lang, severities):
    scorer = LexiconScorer(WORDS)
    assert [s for *_, s in scorer.explain(text, lang)] == severities
    np.testing.assert_allclose(scorer.score([text], lang), [1 - np.prod([1 - s for s in severities])])


def test_lexicon_version_follows_its_content():
    assert LexiconScorer(WORDS).version == LexiconScorer(WORDS.copy()).version
    assert LexiconScorer(WORDS).version != LexiconScorer(WORDS.assign(severity=WORDS["severity"] / 2)).version


def test_load_scorer(tmp_path):
    table = WORDS.assign(de=["null", "nan", "NA", "None", "", "true"])
    table.to_csv(tmp_path / "words.csv", index=False)
    scorer = load_scorer(f"lexicon:{tmp_path}/words.csv")
    np.testing.assert_allclose(scorer.score(["null", "None", "true", " "], "de"), [0.5, 0.4, 0.3, 0.0])
    assert load_scorer("lexicon:babel").languages == frozenset(LANGUAGES.index)
    table.drop(columns="severity").to_csv(tmp_path / "short.csv", index=False)
    table.assign(severity=["0.5", "high", 0, 0, 0, 0]).to_csv(tmp_path / "odd.csv", index=False)
    table.assign(severity=2).to_csv(tmp_path / "much.csv", index=False)
    for spec, message in [("lexicon:none.csv", "no such file"), (f"lexicon:{tmp_path}/short.csv", "short.csv: lacks the columns severity"),
                          (f"lexicon:{tmp_path}/odd.csv", "severity of child is nan"), (f"lexicon:{tmp_path}/much.csv", "villain is 2"),
                          ("oracle:x", "kinds lexicon, ngram"), ("lexicon", "needs to be told more"), (f"ngram:{tmp_path}", "no such file")]:
        with pytest.raises(InputError, match=message):
            load_scorer(spec)


@pytest.mark.parametrize("spec, message", [
    ("oracle:x", "unknown scorer 'oracle:x'; give KIND:WHERE with one of the kinds lexicon, ngram"), ("lexicon", "needs to be told more after a colon"),
    ("lexicon:none.csv", "scorer: no such file or folder: none.csv"), ("ngram:none", "no such file or folder: none"),
    ("archive:none#x", "no such file or folder: none"), ("classifier:/none", "no such file or folder: /none"),
    ("classifier:textdetox/xlmr-large-toxicity-classifier", "does not support fr; it supports am ar de"),
    ("classifier:someone/some-model", "name the commit to take, classifier:someone/some-model@COMMIT"),
    ("classifier:someone/some-model@main", "a branch or a tag can move"),
    ("noisy:oracle:x", "unknown scorer 'oracle:x'"), ("biased:lexicon", "lexicon needs to be told more"), ("noisy:", "noisy needs to be told more")])
def test_a_spec_is_checked_before_anything_is_computed(spec, message):
    with pytest.raises(InputError, match=message):
        check_spec(spec, ["en", "fr"])
    check_spec("noisy:lexicon:babel", ["en", "fr"])
    check_spec(f"classifier:someone/some-model@{'0' * 40}", ["en", "fr"])


def test_every_scorer_of_the_list_knows_what_its_spec_means():
    kinds = [scorer.kind for scorer in SCORERS]
    assert len(set(kinds)) == len(kinds) and {"lexicon", "ngram", "perspective", "classifier", "guard", "openai", "archive", "noisy", "biased"} <= set(kinds)
    for scorer in SCORERS:
        assert scorer.quota is None or scorer.quota > 0, scorer
        assert scorer.__doc__.startswith(f"`{scorer.kind}:"), f"{scorer}: its docstring begins with its specs"
        assert getattr(scorer, "languages", None) is None or scorer.languages <= set(LANGUAGES.index), scorer
    for scorer in SCORERS:
        with pytest.raises(InputError):
            scorer.from_spec({"perspective": "default", "openai": "http://h/v1"}.get(scorer.kind, "/none"), ["xx"])
    np.testing.assert_array_equal(LexiconScorer.from_spec("babel", ["en"]).score(["hello"], "en"), [0.0])


@pytest.fixture(scope="module")
def ngram():
    return NgramScorer.fit(babel.labelled(["en", "zh"], n=150), seed=0)


def test_ngram_scorer_is_reproducible_and_knows_its_limits(ngram):
    assert NgramScorer.fit(babel.labelled(["en", "zh"], n=150), seed=0).version == ngram.version
    assert NgramScorer.fit(babel.labelled(["en", "zh"], n=150), seed=1).version != ngram.version
    assert ngram.trained_on == ["en", "zh"] and ngram.languages is None
    assert ngram.held_out["n"].between(25, 30).all() and (ngram.held_out["auc"] > 0.8).all() and (ngram.held_out["brier"] < 0.2).all()
    scores, reasons = ngram.assess(["", " \n", "fine", "ጤና"], "am")
    assert np.isnan(scores[:2]).all() and ((scores[2:] > 0) & (scores[2:] < 1)).all() and reasons == ["empty text"] * 2 + [None] * 2
    assert ngram.score([], "en").shape == (0,) and np.isnan(ngram.score(["", ""], "en")).all()
    one, many = ngram.score(["a"], "en"), ngram.score(["a", "completely different"], "en")
    assert one[0] == many[0], "a score does not depend on the batch"


def test_ngram_folder(tmp_path, ngram):
    ngram.save(tmp_path / "ngram")
    assert sorted(p.name for p in (tmp_path / "ngram").iterdir()) == ["model.safetensors", "scorer.json"]
    again = load_scorer(f"ngram:{tmp_path}/ngram")
    pd.testing.assert_frame_equal(again.held_out, ngram.held_out)
    assert (again.version, again.trained_on) == (ngram.version, ngram.trained_on)
    weights = tmp_path / "ngram" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-4] + b"\0\0\1\0")
    with pytest.raises(InputError, match="not those that were saved"):
        NgramScorer.load(tmp_path / "ngram")
    weights.write_bytes(content[:1000])
    with pytest.raises(InputError, match="not a saved n-gram scorer"):
        NgramScorer.load(tmp_path / "ngram")
    weights.unlink()
    with pytest.raises(InputError, match="not a saved n-gram scorer"):
        NgramScorer.load(tmp_path / "ngram")


@pytest.mark.parametrize("change, message", [
    (lambda d: d.drop(columns="id"), "labelled: lacks the columns id"), (lambda d: d.assign(toxic=2), "toxic must be 0 or 1"),
    (lambda d: d.assign(toxic=1), "toxic must be 0 or 1"), (lambda d: d.groupby("toxic").head(5), "at least 10 texts of each")])
def test_ngram_refuses(change, message):
    with pytest.raises(InputError, match=message):
        NgramScorer.fit(change(babel.labelled(["en"], n=60)), seed=0)


def test_split_keeps_pairs_and_equal_texts_apart():
    rows = [(f"train{i}", lang, f"{lang} bad {i % 95}", f"{lang} good {i % 95}", "train") for lang in ("en", "de") for i in range(100)]
    labelled = data.from_pairs(pd.DataFrame(rows, columns=data.SCHEMAS["parallel"]), "labelled")
    train, test = hold_out_texts(labelled, seed=0)
    pairs = [set(part["lang"] + part["id"].str.split("-").str[0]) for part in (train, test)]
    assert len(train) == 320 and 0 < len(test) < 80 and not pairs[0] & pairs[1] and not set(train["text"]) & set(test["text"])
    assert set(test["lang"]) == {"en", "de"}


def test_ngram_on_real_pairs(real_data):
    labelled = data.paradetox(real_data / "paradetox_splits", as_="labelled")
    held_out = NgramScorer.fit(labelled, seed=0).held_out
    assert len(held_out) == 9 and (held_out["auc"] > 0.75).all() and (held_out["brier"] < 0.2).all(), held_out


def test_words_that_look_like_nothing_are_words(tmp_path):
    (tmp_path / "words.csv").write_text("concept,en,de,severity\nzero,NA,null,0\nnobody,None,,\nnothing,nan,nichts,0.5\n")
    words = read_table(tmp_path / "words.csv")
    assert words["en"].tolist() == ["NA", "None", "nan"] and words["de"].isna().tolist() == [False, True, False]
