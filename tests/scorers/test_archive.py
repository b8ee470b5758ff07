"Archives of scores: made twice, damaged, merged, replayed."
import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from xlingtox.core import InputError, file_digest, write_table
from xlingtox.scorers.archive import export_scores, import_scores
from xlingtox.scorers.archived import ArchiveScorer, read_archive
from xlingtox.scorers.by_name import check_spec, load_scorer, score_generations
from xlingtox.scorers.lexicon import LexiconScorer
from xlingtox.scorers.ngram import NgramScorer
from xlingtox.scorers.store import ScoreStore

GENERATIONS = pd.DataFrame([("m/base", lang, f"p{p}", s, f"{lang} text {p} {s}") for lang in ("en", "de") for p in range(4) for s in range(3)],
                           columns=["model", "lang", "prompt_id", "sample", "text"])


class Service:
    "Scores by length until it is gone; texts of prompt 3 are too long for it"

    languages, gone = None, False

    def __init__(self, name="service", version="1"):
        self.name, self.version = name, version

    def assess(self, texts, lang):
        if self.gone:
            raise ConnectionError("gone")
        long = [f"text 3 {t[-1]}" in t for t in texts]
        return [np.nan if x else len(t) / 50 for t, x in zip(texts, long, strict=True)], ["too long" if x else None for x in long]


@pytest.fixture
def store(tmp_path):
    store = ScoreStore(tmp_path / "s.sqlite")
    score_generations(GENERATIONS, Service(), store)
    return store


@pytest.mark.parametrize("texts", [False, True])
def test_an_evaluation_replays_without_the_service(tmp_path, store, texts):
    scores = score_generations(GENERATIONS, Service(), store)
    manifest = export_scores(store, tmp_path / "a", GENERATIONS, texts=texts)
    assert manifest["scorers"] == [{"scorer": "service", "version": "1", "languages": ["de", "en"], "scores": 18, "failures": 6}]
    gone, elsewhere = Service(), ScoreStore(tmp_path / "t.sqlite")
    gone.gone = True
    assert import_scores(tmp_path / "a", elsewhere) == {"added": 24, "known": 0, "different": 0}
    pd.testing.assert_frame_equal(score_generations(GENERATIONS, gone, elsewhere), scores)
    replay = load_scorer(f"archive:{tmp_path}/a")
    pd.testing.assert_frame_equal(score_generations(GENERATIONS, replay, ScoreStore(tmp_path / "u.sqlite")), scores)
    assert replay.assess([GENERATIONS["text"].iloc[-1]], "de")[1] == ["too long"]
    content = (tmp_path / "a/scores.parquet").read_bytes()
    assert ("text" in read_archive(tmp_path / "a")) is texts and (b"en text 0 0" in pd.read_parquet(tmp_path / "a/scores.parquet").to_csv().encode()) is texts
    assert texts or b"text 0 0" not in content


def test_equal_scores_give_equal_bytes(tmp_path, store):
    other = ScoreStore(tmp_path / "o.sqlite")
    score_generations(GENERATIONS.sample(frac=1, random_state=1), Service(), other)
    export_scores(store, tmp_path / "a", GENERATIONS, texts=True)
    export_scores(other, tmp_path / "b", GENERATIONS.iloc[::-1], texts=True)
    assert file_digest(tmp_path / "a") == file_digest(tmp_path / "b")


def test_a_miss_is_missing_with_its_reason_and_counted(tmp_path, store):
    export_scores(store, tmp_path / "a", GENERATIONS)
    replay, fresh = ArchiveScorer(tmp_path / "a"), ScoreStore(tmp_path / "t.sqlite")
    scores = score_generations(GENERATIONS.replace({"text": {"en text 0 0": "new"}}), replay, fresh)
    assert scores["toxicity"].isna().sum() == 7
    assert fresh.table()["reason"].dropna().value_counts().to_dict() == {"too long": 6, "not in the archive": 1}
    assert not fresh.get(Service(), ["new"], "en")[1].any(), "the service itself may still be asked"
    with pytest.raises(InputError, match=r"scorer service \(archived\) does not support fr"):
        replay.score(["x"], "fr")
    with pytest.raises(InputError, match="does not support fr; it supports de en"):
        check_spec(f"archive:{tmp_path}/a", ["fr"])


def test_only_what_is_asked_for_is_archived(tmp_path, store):
    score_generations(GENERATIONS, Service("other"), store)
    store.put(Service(), ["of another evaluation"], "en", [0.5])
    assert export_scores(store, tmp_path / "all")["rows"] == 49
    assert export_scores(store, tmp_path / "a", GENERATIONS.head(4))["rows"] == 8
    assert export_scores(store, tmp_path / "b", GENERATIONS.head(4), scorer="other")["rows"] == 4
    with pytest.raises(InputError, match=r"take one scorer of one version, archive:FOLDER#NAME; it holds other \(version 1\), service \(version 1\)"):
        load_scorer(f"archive:{tmp_path}/a")
    assert load_scorer(f"archive:{tmp_path}/a#other").name == "other"
    with pytest.raises(InputError, match="it holds other"):
        load_scorer(f"archive:{tmp_path}/a#nobody")
    for kw, message in [({"scorer": "x"}, "no scores of a scorer named 'x'; there are other, service"), ({"texts": True}, "needs the texts"),
                        ({"generations": GENERATIONS.assign(text="unseen")}, "no scores to archive: nothing in the store fits the texts")]:
        with pytest.raises(InputError, match=message):
            export_scores(store, tmp_path / "c", **kw)
    assert not (tmp_path / "c").exists()


def test_another_folder_is_not_overwritten(tmp_path, store):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").write_text("years")
    with pytest.raises(InputError, match="thesis: is there already and no archive"):
        export_scores(store, tmp_path / "thesis")
    assert (tmp_path / "thesis/chapter.txt").read_text() == "years"
    export_scores(store, tmp_path / "a")
    export_scores(store, tmp_path / "a", GENERATIONS.head(1))
    assert len(read_archive(tmp_path / "a")) == 1


def test_a_score_that_is_there_stays(tmp_path, store):
    export_scores(store, tmp_path / "a")
    other = ScoreStore(tmp_path / "t.sqlite")
    other.put(Service(), ["en text 0 0", "en text 0 1", "en text 3 0"], "en", [0.9, len("en text 0 1") / 50, 0.4])
    other.put(Service(), ["en text 0 2"], "en", [np.nan], ["a failure"])
    assert import_scores(tmp_path / "a", other) == {"added": 21, "known": 3, "different": 1}
    values = other.get(Service(), ["en text 0 0", "en text 3 0", "en text 0 2"], "en")[0]
    assert values.tolist() == [0.9, 0.4, 0.22]


def rewrite(folder, change, honest=True):
    "Change the table of an archive, with or without a manifest that fits"
    write_table(change(pd.read_parquet(folder / "scores.parquet")), folder / "scores.parquet")
    if honest:
        manifest = json.loads((folder / "archive.json").read_text())
        (folder / "archive.json").write_text(json.dumps(manifest | {"sha256": file_digest(folder / "scores.parquet")}))


@pytest.mark.parametrize("damage, message", [
    (lambda a: (a / "archive.json").unlink(), "archive.json: no such file"),
    (lambda a: (a / "archive.json").write_text("{"), "archive.json, line 1, column 2: not JSON"),
    (lambda a: (a / "archive.json").write_text("[]"), "not the manifest of an archive"),
    (lambda a: (a / "scores.parquet").unlink(), "scores.parquet: no such file"),
    (lambda a: rewrite(a, lambda t: t.assign(toxicity=0.1), honest=False), "not the table that archive.json describes"),
    (lambda a: rewrite(a, lambda t: t.drop(columns="sha256")), "lacks the columns sha256"),
    (lambda a: rewrite(a, lambda t: t.assign(toxicity=1.5)), "row 1: toxicity is 1.5; it must be between 0 and 1"),
    (lambda a: rewrite(a, lambda t: t.assign(toxicity=np.nan, reason=None)), "row 1: toxicity is nan"),
    (lambda a: rewrite(a, lambda t: t.assign(text="another")), "row 1: the text does not have the hash"),
])
def test_damaged_archives_are_refused(tmp_path, store, damage, message):
    export_scores(store, tmp_path / "a", GENERATIONS, texts=True)
    damage(tmp_path / "a")
    fresh = ScoreStore(tmp_path / "t.sqlite")
    for use in (lambda: import_scores(tmp_path / "a", fresh), lambda: ArchiveScorer(tmp_path / "a")):
        with pytest.raises(InputError, match=message):
            use()
    assert fresh.table().empty


def test_scores_of_real_scorers_survive_unchanged(tmp_path):
    from xlingtox import babel

    labelled = babel.labelled(["en", "de"], n=60)
    generations = labelled.assign(model="m", prompt_id=labelled["id"], sample=0)[["model", "lang", "prompt_id", "sample", "text"]]
    for i, scorer in enumerate([LexiconScorer(babel.load_lexicon()), NgramScorer.fit(labelled, seed=0)]):
        store = ScoreStore(tmp_path / f"{i}.sqlite")
        scores = score_generations(generations, scorer, store)
        export_scores(store, tmp_path / f"a{i}")
        replayed = score_generations(generations, ArchiveScorer(tmp_path / f"a{i}"), ScoreStore(tmp_path / f"r{i}.sqlite"))
        pd.testing.assert_frame_equal(replayed, scores, check_exact=True)


def xlingtox(*arguments, cwd):
    done = subprocess.run([sys.executable, "-m", "xlingtox.cli", *map(str, arguments)], capture_output=True, text=True, cwd=cwd)
    return done.returncode, done.stdout, done.stderr


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("XLINGTOX_CACHE", str(tmp_path / "cache"))
    run = tmp_path / "runs/mini"
    (run / "generations/m").mkdir(parents=True)
    GENERATIONS.to_parquet(run / "generations/m/base.parquet")
    shutil.copy(run / "generations/m/base.parquet", tmp_path / "g.parquet")
    assert xlingtox("score", "--in", "g.parquet", "--scorer", "lexicon:babel", "--out", "s.parquet", cwd=tmp_path)[0] == 0
    code, out, err = xlingtox("scores", "export", "--out", "a", "--in", "g.parquet", "--texts", cwd=tmp_path)
    assert (code, err) == (0, "") and "24 scores, 0 failures in 2 languages" in out
    code, out, err = xlingtox("scores", "import", "--in", "a", "--run", "runs/mini", cwd=tmp_path)
    assert (code, err) == (0, "") and out.startswith("24 scores added, 0 known already")
    assert xlingtox("scores", "export", "--out", "b", "--run", "runs/mini", "--texts", cwd=tmp_path)[0] == 0
    assert file_digest(tmp_path / "a") == file_digest(tmp_path / "b")
    assert xlingtox("score", "--in", "g.parquet", "--scorer", "archive:a", "--out", "t.parquet", cwd=tmp_path) == (0, "", "")
    assert (tmp_path / "s.parquet").read_bytes() == (tmp_path / "t.parquet").read_bytes()


@pytest.mark.parametrize("arguments, message", [
    (("export", "--out", "a", "--run", "none"), "--run none: no such folder"), (("export", "--out", "a", "--run", "."), "scores.sqlite: no such store"),
    (("export", "--out", "a", "--store", "s.sqlite", "--run", "."), "give one of the two"), (("export",), "Missing option '--out'"),
    (("export", "--out", "a", "--store", "none.sqlite"), "none.sqlite: no such store of scores"),
    (("import", "--in", "none", "--store", "t.sqlite"), "archive.json: no such file"), ((), "Missing command"),
    (("exprot",), "No such command 'exprot'")])
def test_bad_arguments(tmp_path, arguments, message):
    code, out, err = xlingtox("scores", *arguments, cwd=tmp_path)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_archive_has_a_card_that_says_what_it_holds(tmp_path):
    from huggingface_hub import DatasetCard

    store = ScoreStore(tmp_path / "store.sqlite")
    store.add(pd.DataFrame({"scorer": "judge", "version": "v1", "lang": ["en", "de", "de"], "sha256": [f"{i:064x}" for i in range(3)],
                            "toxicity": [0.1, 0.9, None], "reason": [None, None, "too long"]}))
    export_scores(store, tmp_path / "archive")
    export_scores(store, tmp_path / "again")
    card = DatasetCard.load(tmp_path / "archive" / "README.md")
    assert card.data.language == ["de", "en"] and card.data.configs[0]["data_files"] == "scores.parquet"
    assert "| judge | v1 | de en | 2 | 1 |" in card.text and "The texts are not here" in card.text and "More Information Needed" not in card.text
    assert (tmp_path / "again" / "README.md").read_bytes() == (tmp_path / "archive" / "README.md").read_bytes()
    store.close()
