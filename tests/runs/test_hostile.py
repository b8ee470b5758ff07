"""Inputs that nobody would give on purpose, to every command: each is done, or refused in one line, and nothing half-done is left."""
import contextlib
import io
import json
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from xlingtox.core import InputError
from xlingtox.data.files import read_file
from xlingtox.data.schemas import SCHEMAS
from xlingtox.profiles.read import load_profile
from xlingtox.scorers.lexicon import LexiconScorer
from xlingtox.scorers.perspective import FINAL, PerspectiveScorer
from xlingtox.scorers.service import Answer, Fault

SECRET = "a-secret-key-123"
EVERY = {"derandomize": True, "deadline": None, "database": None,
         "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much]}


def few(n):
    "As many examples, the same each time"
    return settings(max_examples=n, **EVERY)


class Hangs(Exception):
    pass


@contextlib.contextmanager
def within(seconds):
    "Raise where the block takes more of the processor's time, or six times as long; a machine may have others to serve"
    def ring(*_):
        raise Hangs(f"more than {seconds} s")

    timers = {signal.ITIMER_PROF: (signal.SIGPROF, seconds), signal.ITIMER_REAL: (signal.SIGALRM, 6 * seconds)}
    before = {number: signal.signal(number, ring) for number, _ in timers.values()}
    for timer, (_, after) in timers.items():
        signal.setitimer(timer, after)
    try:
        yield
    finally:
        for timer in timers:
            signal.setitimer(timer, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def contents(folder):
    "Every file below a folder with its bytes, what a cache keeps left out"
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and "cache" not in p.parts}


def call(*arguments):
    "The command in this process: status, standard output, standard error"
    from xlingtox import cli

    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["xlingtox", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as e:
        if isinstance(e.code, str):
            err.write(e.code + "\n")
        return 1 if isinstance(e.code, str) else e.code or 0, out.getvalue(), err.getvalue()
    finally:
        sys.argv = before
    return 0, out.getvalue(), err.getvalue()


def polite(folder, *arguments, seconds=10):
    "The status of a command that is done, or refused as promised"
    before = contents(folder)
    try:
        with within(seconds):
            code, out, err = call(*arguments)
    except Exception:
        pytest.fail(f"xlingtox {' '.join(map(ascii, arguments))}\n{traceback.format_exc()}")
    assert code in (0, 1, 2) and "Traceback" not in err, (arguments, code, err)
    if code == 2:
        assert err.startswith("xlingtox: ") and err.count("\n") == 1 and len(err) < 3000, (arguments, out, err)
        assert contents(folder) == before, f"{arguments} left something behind"
    assert not [name for name in contents(folder) if Path(name).name.startswith(".")], "a temporary file is left"
    return code


@pytest.fixture(scope="module")
def lexicon():
    "The scorer of the miniature, which takes a second to make"
    return LexiconScorer.from_spec("babel")


@pytest.fixture
def here(tmp_path, monkeypatch, lexicon):
    made = LexiconScorer.from_spec
    monkeypatch.setattr(LexiconScorer, "from_spec", lambda where, languages=None: lexicon if where == "babel" else made(where, languages))
    monkeypatch.setenv("XLINGTOX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PERSPECTIVE_API_KEY", "")
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---- tables -----------------------------------------------------------------------------------------------------------------------------

ROWS = {
    "prompts": {"id": "p0", "lang": "en", "text": "the friend"},
    "preference": {"id": "p0", "lang": "en", "prompt": "the", "chosen": "friend", "rejected": "liar"},
    "parallel": {"id": "p0", "lang": "en", "toxic": "the liar", "neutral": "the friend", "split": "train"},
    "labelled": {"id": "p0", "lang": "en", "text": "the liar", "toxic": True},
    "instruct": {"id": "p0", "lang": "en", "prompt": "the", "response": "friend"},
    "choice": {"id": "p0", "lang": "en", "question": "where?", "choices": ["here", "there"], "answer": 1},
    "generations": {"model": "m", "lang": "en", "prompt_id": "p0", "sample": 0, "text": "a friend"},
    "scores": {"model": "m", "lang": "en", "prompt_id": "p0", "sample": 0, "scorer": "s", "toxicity": 0.5},
}
NUMBERS = {"sample": [-1, 0.5, True, "zero", [0], None], "toxicity": [-0.1, 1.5, 40, True, "much", [0.5], float("inf")],
           "toxic": [2, -1, 0.5, "perhaps", [1], None], "answer": [-1, 2, 0.5, True, "one", None], "choices": ["here", [], ["one"], [1, 2], None, {"a": 1}]}
NO_TEXT = [1, 0, 1.5, True, None, ["the", "friend"], [], {"text": "a"}, "half \ud83d", "2024-01-01T00:00:00"]


def bad_values(schema, column):
    "Values that a column of a schema may not have"
    if column in NUMBERS and (schema, column) != ("parallel", "toxic"):
        return NUMBERS[column]
    return NO_TEXT[:-1] + (["xx", "English", ""] if column == "lang" else [])


@st.composite
def spoilt_tables(draw):
    "A schema and rows of which one cell is wrong, a column is lacking or a key stands twice"
    schema = draw(st.sampled_from(sorted(ROWS)))
    rows = [ROWS[schema] | {key: f"p{i}" for key in ("id", "prompt_id") if key in ROWS[schema]} for i in range(draw(st.integers(1, 4)))]
    how = draw(st.sampled_from(["cell"] * 8 + ["column", "twice"]))
    if how == "column":
        lost = draw(st.sampled_from(SCHEMAS[schema]))
        return schema, [{k: v for k, v in row.items() if k != lost} for row in rows]
    if how == "twice":
        return schema, [*rows, rows[0]]
    column = draw(st.sampled_from(SCHEMAS[schema]))
    place = draw(st.integers(0, len(rows) - 1))
    rows[place] = rows[place] | {column: draw(st.sampled_from(bad_values(schema, column)))}
    return schema, rows


def write_rows(path, rows):
    "Rows as a file of the kind that its name says; False where that kind cannot hold them, or holds something else that may be right"
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return True
    if path.suffix == ".parquet":
        try:
            pd.DataFrame(rows).to_parquet(path)
        except Exception:
            return False
        return True
    return False


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_what_a_schema_forbids_is_never_accepted(here, suffix):
    @few(150)
    @given(spoilt_tables())
    def check(table):
        schema, rows = table
        path = here / f"t.{suffix}"
        if write_rows(path, rows):
            with pytest.raises(InputError) as caught, within(10):
                read_file(path, schema)
            assert "\n" not in str(caught.value) and f"t.{suffix}" in str(caught.value)

    check()


@few(60)
@given(st.sampled_from(sorted(ROWS)), st.lists(st.text(min_size=1), min_size=1, max_size=5, unique=True), st.floats(0, 1))
def test_what_is_written_is_what_is_read(tmp_path_factory, schema, ids, toxicity):
    key = "prompt_id" if "prompt_id" in ROWS[schema] else "id"
    ids = [i.replace("\ud800", "") for i in ids if i.isprintable() and not any("\ud800" <= c <= "\udfff" for c in i)] or ["001"]
    table = pd.DataFrame([ROWS[schema] | {key: i} | ({"toxicity": toxicity} if schema == "scores" else {}) for i in dict.fromkeys(ids)])
    folder = tmp_path_factory.mktemp("tables")
    for suffix in ("csv", "jsonl", "parquet"):
        path = folder / f"t.{suffix}"
        if suffix == "parquet":
            table.to_parquet(path)
        elif suffix == "csv":
            table.assign(**{c: table[c].map(json.dumps) for c in ("choices",) if c in table}).to_csv(path, index=False)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in table.to_dict("records")))
        back = read_file(path, schema)
        for column in back:
            got = [list(v) if isinstance(v, np.ndarray) else v for v in back[column]]
            assert got == table[column].tolist(), (suffix, column)
    shutil.rmtree(folder)


JUNK = [b"", b"\n\n", b"\x00" * 40, b"PAR1\x00\x00PAR1", b"id,lang,text\n", b"id,lang,text\na,en\n", b"id,lang,text\na,en,x,y\n", b'id,lang,text\na,en,"x\n',
        "id,lang,text\na,fr,café\n".encode("latin-1"), '{"id": "a", "lang": "en", "text": "x"}\n'.encode("utf-16"), b"[1, 2]\n", b'{"id": 1}\n{', b"null\n",
        b'{"id": "a", "id": "b", "lang": "en", "text": "x"}\n', b"[" * 5000, b'{"a":' * 3000, b"9" * 6000, b"\xef\xbb\xbf", b"id;lang;text\na;en;x\n",
        b"ID,LANG,Text\na,en,x\n", b"id,lang,text,text\na,en,x,y\n", b"version https://git-lfs.github.com/spec/v1\n", b"GGUF\x03", b"PK\x03\x04"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "json", "txt"])
def test_bytes_that_are_no_table(here, suffix):
    @few(40)
    @given(st.one_of(st.sampled_from(JUNK), st.binary(max_size=60)))
    def check(raw):
        path = here / f"t.{suffix}"
        path.write_bytes(raw)
        with pytest.raises(InputError) as caught, within(10):
            read_file(path, "prompts")
        assert "\n" not in str(caught.value)

    check()


# ---- profiles ---------------------------------------------------------------------------------------------------------------------------

def places(value, at=()):
    "Every key of a profile, with those above it; one model and one family stand for all"
    for key, inside in value.items() if isinstance(value, dict) else ():
        if at not in (("models",), ("beniwal2025", "models")) or key in ("mgpt", "mt5-large"):
            yield ".".join((*at, key))
            yield from places(inside, (*at, key))


PATHS = [*places(load_profile("mini").model_dump(mode="json")), "extends", "nonsense", "generation.nonsense", "models.nonsense.model", "models.mgpt.nonsense"]
NEVER = {"generation.k": [0, -1, 1.5, True, "many", [], {}], "generation.temperature": [-1, True, "hot", []], "generation.top_p": [0, 1.5, -1, True],
         "metrics.n_resamples": [0, -5, 0.5, True], "metrics.level": [0, 1, 2, True], "dpo.learning_rate": [0, -1, True, "fast"], "dpo.max_steps": [-1, 1.5],
         "threads.generate": [0, -1, True], "models.mgpt.seeds": [[], [-1], [0.5], [True], "all"], "languages": [[], ["xx"], "all", 7, [7]],
         "name": ["", "../up", "a/b", 7], "data.prompts.source": ["", "nowhere:x", 7, [], "file:/nowhere/at/all.csv"],
         "models.mgpt.model": ["mini:nothing", "/nowhere/at/all"], "scorer": ["", "oracle:x", "lexicon", 7], "models": [[], "mgpt", 7],
         "data.prompts.n": [0, -1, 1.5, True, "many", [], {"a": 1}], "data.prompts.sample": [0, True, 10**30], "data.hate.seed": [-1, True, 0.5, "x", 10**30],
         "data.prompts.toxic_share": [-1, 2, True, "half"], "metrics.seed": [-1, True, 10**30], "probe.seed": [-1], "sites.seed": [-1], "methods.seed": [-1],
         "generation.seed": [-1, 2**70], "probe.lang": ["xx", "fi"], "leave_out": [["nothing/at/all"], [""], [1], ["li2024/fig1", "li2024/fig1"]],
         "agreement": [["ngram:train", "ngram:train"], [""], [1], "lexicon:babel"], "cards": [["oracle:x"], [""]], "report_to": ["nobody", "", 7, "all"],
         "features.model": ["", "mini:nothing", "/nowhere/at/all", "a b"], "judge.model": ["", " ", "a/b/c", "mini:", "lexicon:babel", "x\ny"],
         "accelerate": ["", "nothing", "/", 7], "sites.lexicon": ["", "/", "nowhere.csv"], "intervention.offsets": [[], [0], [1, 1.0], [True], ["x"]],
         "capability.tasks": [[], "facts", ["facts", "facts"]], "neuronft2025.modules": [[], "nothing", 7],
         "methods.models": [[], ["mgpt", "mgpt"], ["nobody"]],
         "neuronft2025.tuning.optimizer_args": ["x", "", "a=b,c", "=1"], "title": ["a\nb", 7, "\0"], "threads": [{"nothing": 1}, {"base": 0}, []],
         "extends": ["nothing", 7, [], "", "."], "nonsense": [1], "generation.nonsense": [1], "models.nonsense.model": ["mini:mgpt"]}
VALUES = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(-2, 2), st.text(max_size=5), st.lists(st.integers(-1, 2), max_size=2),
                   st.dictionaries(st.sampled_from("ab"), st.integers(), max_size=1))


def profile_with(path, value):
    "The text of a profile that says something at a place"
    *above, last = path.split(".")
    raw = {"extends": "mini", "name": "mine"}
    place = raw
    for key in above:
        place = place.setdefault(key, {})
    place[last] = value
    return yaml.safe_dump(raw, allow_unicode=True)


@few(250)
@given(st.sampled_from([(path, value) for path, values in NEVER.items() for value in values]))
def test_settings_that_cannot_be(tmp_path_factory, setting):
    path = tmp_path_factory.mktemp("profiles") / "mine.yaml"
    path.write_text(profile_with(*setting), encoding="utf-8")
    with pytest.raises(InputError) as caught, within(10):
        load_profile(path)
    assert "\n" not in str(caught.value), setting


@few(200)
@given(st.sampled_from(PATHS), VALUES)
def test_settings_of_any_kind(tmp_path_factory, place, value):
    path = tmp_path_factory.mktemp("profiles") / "mine.yaml"
    path.write_text(profile_with(place, value), encoding="utf-8")
    with contextlib.suppress(InputError), within(10):
        load_profile(path)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]\n" for a, b in
                                                       zip("abcdefgh", "bcdefghi", strict=True))
NO_PROFILE = ["", "- a\n",
              "a: b: c\n", "name: one\nname: two\n", "generation: {k: 5, k: 6}\n", "dpo: {learning_rate: .inf}\n", "dpo: {beta: .nan}\n",
              "dpo: {learning_rate: 1.0e+999}\n", "1: 2\n", "true: 1\n", "null: 1\n", "[a]: 1\n", "a: &a {b: *a}\n", "a: &a [*a]\n",
              BOMB, "a: !!python/object:os.system x\n",
              "a: !!python/object/apply:os.system ['touch RAN']\n", "a: *nobody\n", "\t- x\n", "name: '\n", "<<: 7\n", "extends: mine.yaml\n",
              "extends: ../..\n",
              "%YAML 9.9\n---\na: 1\n", "a: 1\n---\nb: 2\n", "{" * 3000, "a: " + "[" * 3000, "name: \"\\uD800\"\n"]


@pytest.mark.parametrize("text", NO_PROFILE, ids=range(len(NO_PROFILE)))
def test_text_that_is_no_profile(here, text):
    (here / "mine.yaml").write_text(text)
    assert polite(here, "reproduce", "--dry-run", "--profile", "mine.yaml") == 2
    assert not (here / "RAN").exists()


# ---- answers of a service ---------------------------------------------------------------------------------------------------------------

SCORE = st.one_of(st.floats(), st.integers(), st.text(max_size=3), st.none(), st.booleans(), st.lists(st.floats(0, 1), max_size=1))
ERRORS = st.fixed_dictionaries({"error": st.one_of(st.text(max_size=9), st.none(), st.lists(st.integers(), max_size=1), st.fixed_dictionaries({
    "message": st.one_of(st.just(f"no {SECRET} here"), st.text(max_size=9), st.integers()),
    "details": st.one_of(st.none(), st.lists(st.one_of(st.integers(), st.fixed_dictionaries({
        "errorType": st.one_of(st.sampled_from([*FINAL, "NEW", f"of {SECRET}"]), st.integers())})), max_size=2))}))})
BODIES = st.one_of(
    st.builds(lambda v: {"attributeScores": {"TOXICITY": {"summaryScore": {"value": v}}}}, SCORE), ERRORS,
    st.recursive(st.one_of(st.none(), st.floats(), st.text(max_size=4)), lambda inner: st.dictionaries(
        st.sampled_from(["attributeScores", "TOXICITY", "summaryScore", "value", "error"]), inner, max_size=2), max_leaves=5))
STATUS = st.sampled_from([200, 200, 200, 204, 206, 301, 302, 307, 400, 400, 401, 403, 404, 407, 408, 409, 410, 413, 418, 422, 429, 500, 503, 599])


@few(250)
@given(STATUS, st.one_of(BODIES.map(lambda b: json.dumps(b).encode()), st.sampled_from([b"", b"<html>", b"null", b"[]", b"\xff\xfe", b"{", b"[" * 9000]),
                         st.binary(max_size=20)),
       st.dictionaries(st.sampled_from(["retry-after", "location"]), st.sampled_from(["7", "-1", "soon", "9" * 30, f"/{SECRET}", "²"]), max_size=2))
def test_whatever_a_service_answers(status, body, headers):
    scorer = PerspectiveScorer(SECRET, "http://127.0.0.1:9/v1", qps=100)
    response = httpx.Response(status, content=body, headers=[(k.encode(), v.encode()) for k, v in headers.items()])
    try:
        said = scorer._service._understand(3, response, scorer._read)
    except InputError as e:
        assert SECRET not in str(e) and "\n" not in str(e) and status != 200
        return
    assert SECRET not in repr(said)
    if isinstance(said, Answer):
        final = said.reason is not None and said.reason.startswith(FINAL) and status == 400
        assert said.place == 3 and (0 <= said.toxicity <= 1 and status == 200) != (final and np.isnan(said.toxicity))
    else:
        assert isinstance(said, Fault) and said.kind and 0 <= said.after < 1e9


# ---- every command ----------------------------------------------------------------------------------------------------------------------

WORDS = ["", " ", "-", "--",
         "..", "/", "nothing", "mini", "li2024/fig1", "en", "english", "ünï", "a\nb", "%s", "{x}", "$(x)", "*", "\udce9", "a" * 300, "0", "-1", "1e9",
         ":", "::", "lexicon:babel", "file:", "babel:prompts", "hf:", "~", "'", "a b"]
FILES = {"empty.csv": b"", "prompts.csv": b"id,lang,text\na,en,the friend\n", "generations.csv": b"model,lang,prompt_id,sample,text\nm,en,a,0,the liar\n",
         "scores.csv": b"model,lang,prompt_id,sample,scorer,toxicity\nm,en,a,0,s,0.5\n",
         "null.csv": b"model,lang,prompt_id,sample,scorer,toxicity\nm,en,a,0,s,\n",
         "broken.parquet": b"PAR1", "broken.jsonl": b"{", "list.json": b"[1]", "store.sqlite": b"no store", "t.txt": b"x", "config.json": b'{"id2label": 7}',
         "archive.json": b'{"format": "xlingtox scores 1", "scorers": [{}]}', "bad/archive.json": b"[]", "bad/adapter_config.json": b"7",
         "bad/config.json": b"[]", "model/config.json": b'{"model_type": "gpt2"}', "model/model.safetensors": b"x", "runs/odd/profile.json": b"{}",
         "runs/list/profile.json": b"[]", "model.gguf": b"GGUF"}
# arguments of a command: option -> what is given; an option of two names is always given
COMMANDS = {
    ("reproduce", "--dry-run"): {"--profile": ["nothing", "t.txt", "empty.csv", "bad", *WORDS[:8]], "--only!": ["fig1", "nothing/at/all", *WORDS[:5]],
                                 "--jobs": ["0", "-1", "x", "1.5", "9" * 30], "--data": ["nowhere", "t.txt"], "--executor": ["nothing", "", "slurm"],
                                 "--model": ["", "mini:nothing", "/nowhere", "a b", "bad"]},
    ("doctor",): {"--data": ["nowhere", "t.txt", "bad", "", "\udce9", "a" * 300, "."]},
    ("status",): {"--nonsense!": ["x"]},
    ("report",): {"--profile!": ["nothing", "odd", "list", "..", *WORDS]},
    ("generate",): {"--model": ["nothing/at-all", "mini:nothing", "shadow:nothing", "bad", "model", "model.gguf", "empty.csv", "", "mini:"],
                    "--prompts": [*FILES, "nowhere.csv", "babel:nothing", "file:", "rtp-lx:nowhere", "hf:", *WORDS],
                    "--out": ["o.csv", "o.txt", "nowhere/o.csv", "bad", "t.txt/o.csv", "prompts.csv", "", "\udce9.csv"], "--k": ["1", "0", "-1", "x"],
                    "--lang": ["xx", "english", "", "de"]},
    ("score",): {"--in": [*FILES, "nowhere.csv", *WORDS[:9]],
                 "--scorer": ["lexicon:babel", "lexicon:nowhere.csv", "lexicon", "oracle", "", ":",
                              "perspective", "perspective:default", "perspective:x", "perspective:http://a b",
                              "perspective:default#xx=en",
                              "classifier:bad#x", "classifier:model#x", "classifier:nothing/at-all#x", "archive:bad", "archive:.", "archive:nowhere",
                              "openai:http://h/v1#m", "openai:x", "ngram:bad", "noisy:", "noisy:noisy:lexicon:babel", "biased:oracle:x"],
                 "--out": ["o.csv", "o.jsonl", "o.txt", "nowhere/o.csv", "bad", "t.txt/o.csv", "generations.csv"]},
    ("metrics",): {"--in": [*FILES, "nowhere.csv", *WORDS]},
    ("retrieval",): {"--model": ["nothing/at-all", "mini:nothing", "bad", "model"], "--texts": [*FILES, "parallel-prompts:nowhere", "paradetox:bad", *WORDS],
                     "--out": ["o.csv", "o.txt", "nowhere/o.csv"], "--source": ["en", "xx", "", "english"]},
    ("data", "list"): {"--nonsense!": ["x"]},
    ("data", "get"): {"": ["nothing", "", "\udce9"], "--to!": ["t.txt", "bad", ""]},
    ("data", "check"): {"": [*FILES, "babel:nothing", "rtp-lx:bad", "jigsaw:bad", "hate:x", "hate:saitov2021@t.txt", "ptp:bad", "preference-pairs:bad", *WORDS],
                        "--schema": [*SCHEMAS, "nothing", ""], "--lang": ["xx", "german", ""]},
    ("miniatures", "list"): {"--nonsense!": ["x"]},
    ("miniatures", "train"): {"": ["nothing", "", "mgpt-99", "\udce9", "a b"]},
    ("miniatures", "check"): {"": ["nothing", "", "mgpt/x"], "--steps": ["0", "-1", "x"]},
    ("scores", "export"): {"--out": ["t.txt", "bad", "new", "t.txt/x"],
                           "--store": ["store.sqlite", "nowhere.sqlite", "bad", "t.txt"], "--run": ["nowhere", "bad", "runs/odd"],
                           "--in": ["generations.csv", *FILES], "--scorer": ["nobody", ""]},
    ("scores", "import"): {"--in": ["bad", ".", "nowhere", "t.txt", *WORDS[:8]], "--store": ["store.sqlite", "new.sqlite", "bad"], "--run": ["nowhere"]},
    ("compare",): {"": [*FILES, "nowhere", "runs/odd", *WORDS[:9]], " ": [*FILES, "nowhere", "", "en"], "--metric": ["emt", "nothing", ""],
                   "--out": ["o.svg", "o.txt", "nowhere/o.png", "bad"]},
    ("scores", "bridge", "fit"): {"--reference!": [*FILES, "bad", "nowhere#x", *WORDS[:6]], "--substitute!": [*FILES, "bad", "nowhere"],
                                  "--out": ["o.json", "o.txt", "nowhere/o.json"], "--texts": ["generations.csv", "empty.csv", "nowhere"]},
    ("scores", "bridge", "cross"): {"--bridge!": [*FILES, "bad", "nowhere"], "--in": [*FILES, "nowhere"], "--out": ["o.csv", "o.txt", "nowhere/o.csv"]},
    ("scorers", "list"): {"--lang!": ["xx", "german", "", "zz"]},
    ("scorers", "card"): {"": ["lexicon:nowhere.csv", "lexicon", "ngram:train", "perspective:x", "classifier:bad#x", "archive:bad", "", ":"],
                          "--labelled": [*FILES, "nowhere.csv", "babel:nothing", *WORDS[:5]], "--parallel!": [*FILES, "nowhere.csv", ""],
                          "--sample!": ["0", "-1", "x"], "--out!": ["o.txt", "nowhere/o.csv", "bad"]},
    ("export",): {"": ["nowhere", "bad", "runs/odd", "runs/list", "t.txt", *WORDS[:6]], "--out": ["o.zip", "nowhere/o.zip", "t.txt"], "--license": ["", "x y"]},
    ("push",): {"": ["nowhere", "bad", "model", "t.txt", ""], " ": ["me/mine", "", "a b", "me/mine/more"], "--base": ["", "me/base"]},
    ("scores", "forget"): {"--store": ["store.sqlite", "nowhere.sqlite", "bad", "t.txt"], "--run": ["nowhere", "bad"], "--scorer": ["", "x"], "--lang": ["xx"]},
}


@st.composite
def arguments(draw, command):
    "A command with some of its options; nearly always one too few, or with a value that does not fit"
    words = list(command)
    for option, values in COMMANDS[command].items():
        always = option.endswith("!") or option in ("", " ", "--model", "--prompts", "--in", "--out", "--texts", "--scorer")
        if always and (command[0] == "reproduce" or draw(st.integers(0, 19))) or not always and draw(st.booleans()):
            value = draw(st.sampled_from(values))
            words += [value] if not option.strip() else [option.rstrip("!"), value]
    return words


def fill(folder):
    for name, raw in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(raw)


def hostile(here, command, n):
    @few(n)
    @given(arguments(command))
    def check(words):
        for path in here.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        fill(here)
        polite(here, *words)

    check()


def test_every_command_is_tried():
    from xlingtox.cli import app

    def commands(of, above=()):
        for c in of.registered_commands:
            yield (*above, c.name or c.callback.__name__.replace("_", "-"))
        for group in of.registered_groups:
            yield from commands(group.typer_instance, (*above, group.name) if group.name else above)

    there = set(commands(app))
    tried = {tuple(word for word in command if not word.startswith("--")) for command in COMMANDS}
    assert there == tried, "a new command wants hostile arguments here"


QUICK = [c for c in COMMANDS if c[0] in (
    "compare", "export", "push", "scorers", "status", "report", "doctor", "metrics", "score", "data", "scores", "reproduce") or c == ("miniatures", "train")]


@pytest.fixture(scope="module")
def libraries():
    "What takes seconds to import, imported before the clock runs"
    import torch  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer  # noqa: F401


@pytest.mark.parametrize("command", QUICK, ids="-".join)
def test_hostile_arguments(here, libraries, command):
    hostile(here, command, 12)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids="-".join)
def test_many_hostile_arguments(here, libraries, command):
    hostile(here, command, 60)


def test_a_cache_that_cannot_be_written(here, monkeypatch):
    fill(here)
    monkeypatch.setenv("XLINGTOX_CACHE", str(here / "t.txt/cache"))
    assert polite(here, "score", "--in", "generations.csv", "--scorer", "lexicon:babel", "--out", "o.csv") == 2
    assert not os.path.exists("o.csv")
