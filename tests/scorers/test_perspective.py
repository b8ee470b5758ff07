"Perspective and other services, against servers on this machine: bad days, a killed process, and the end."
import asyncio
import datetime
import json
import logging
import random
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from xlingtox.core import InputError
from xlingtox.scorers import perspective, service
from xlingtox.scorers.by_name import Unanswered, check_answered, check_spec, load_scorer
from xlingtox.scorers.endpoint import EndpointScorer
from xlingtox.scorers.perspective import PerspectiveScorer
from xlingtox.scorers.quota import Quota, shared_quota
from xlingtox.scorers.store import ScoreStore

from perspective_server import KEY, PerspectiveServer, most_in_a_second, true_score

BAD_DAY = {"429": 0.05, "500": 0.02, "hang": 0.01, "cut": 0.01}
TEXTS = [f"comment {i}" for i in range(10_000)] + [""]


@pytest.fixture(autouse=True)
def before_the_end(monkeypatch):
    "These tests are of the time when the service runs, and of no key or quota of the machine's owner"
    monkeypatch.setattr(perspective, "_today", lambda: datetime.date(2026, 6, 1))
    for name in ("PERSPECTIVE_API_KEY", "PERSPECTIVE_QPS", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def scorer(server, **settings):
    return PerspectiveScorer(KEY, server.url, **{"qps": 400, "timeout": 2.0, "backoff": 0.02, **settings})


@pytest.mark.parametrize("qps", [0.3, 1, 7.5, 10, 450])
def test_no_second_holds_more_than_the_quota(qps):
    quota, rng, now, sent = Quota(qps), random.Random(0), 0.0, []
    while len(sent) < 40 * qps + 50:
        wait = quota.take(now)
        sent += [now] * (wait == 0)
        now += wait + max(0.0, rng.gauss(0, 0.002)) + (rng.random() < 0.001) * rng.random() * 3  # jitter, and now and then a long stop
    burst = max(1, int(qps))
    assert all(later - earlier >= burst / qps for earlier, later in zip(sent, sent[burst:], strict=False))


@pytest.mark.parametrize("qps", [1, 10, 450])
def test_the_quota_is_used(qps):
    quota, rng, now, sent = Quota(qps), random.Random(0), 0.0, 0
    while now < 100:
        if wait := quota.take(now):
            now += wait + rng.random() * 0.003  # a sleep takes longer than asked for
        else:
            sent += 1
    assert 0.95 * qps * 100 < sent <= qps * 100


def test_one_quota_for_all_scorers_of_an_account():
    with PerspectiveServer() as server:
        one, other = scorer(server), scorer(server, attributes=("INSULT",))
        assert one._service.quota is other._service.quota is not PerspectiveScorer("another-key", server.url, qps=400)._service.quota
    assert shared_quota(("x",), 3) is shared_quota(("x",), 3) is not shared_quota(("x",), 4)


@pytest.mark.slow
def test_ten_thousand_texts_on_a_bad_day(tmp_path, monkeypatch):
    take, left = Quota.take, []

    def note(quota):
        "Leave to send, and when it was given"
        wait = take(quota)
        left.extend(list(quota._sent)[-1:] * (wait == 0))
        return wait

    monkeypatch.setattr(Quota, "take", note)
    with PerspectiveServer(BAD_DAY) as server:
        store, judge, told = ScoreStore(tmp_path / "s.sqlite"), scorer(server, qps=500), []
        scores = store.score(judge, TEXTS, "en", progress=told.append)
        np.testing.assert_allclose(scores[:-1], [true_score(t) for t in TEXTS[:-1]])
        kept, outcomes = store.table(), server.outcomes()
        assert len(kept) == sum(told) == len(TEXTS) and kept["reason"].dropna().tolist() == ["COMMENT_EMPTY: Comment must be non-empty."]
        assert max(server.answers().values()) == 1, "nothing is asked for after it was answered"
        for fault, share in BAD_DAY.items():
            assert outcomes[fault] == pytest.approx(share * len(server.log), rel=0.4), "the day was bad"
        assert len(left) == len(server.log) and most_in_a_second(left) <= 500, "each request asks for leave, and no second holds more than the quota"
        assert server.most_in_a_second() <= 500 * (1 + 3 * server.lag), "they are sent at once: the server reads each in up to three rounds of its loop"
        assert server.most_flying < 500 * 2.0, "requests that hang did not hold up the others"
        print(f"{server.rate():.0f} requests a second, quota 500; at most {server.most_in_a_second()} in one, {server.most_flying} under way")
        before = len(server.log)
        np.testing.assert_array_equal(store.score(judge, TEXTS, "en"), scores)
        assert len(server.log) == before, "all of it is stored"


CHILD = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/../peers"]
from test_perspective import *
perspective._today = lambda: datetime.date(2026, 6, 1)
judge = PerspectiveScorer(KEY, sys.argv[2], qps=300, timeout=2.0, backoff=0.02)
ScoreStore(sys.argv[3]).score(judge, TEXTS[:1500], "en")
"""


def test_killed_in_the_middle(tmp_path):
    with PerspectiveServer(BAD_DAY) as server:
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(Path(__file__).parent), server.url, str(tmp_path / "s.sqlite")])
        while len(server.log) < 600 and child.poll() is None:
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        before = server.answers()
        assert 400 < len(before) < 1400, "killed in the middle"
        store, judge = ScoreStore(tmp_path / "s.sqlite"), scorer(server)
        lost = len(before) - len(store.table())
        assert 0 <= lost <= 30, "what was stored, but for the answers on their way"
        answered = [text for _, text, outcome in server.log if outcome in ("200", "400")]
        known = dict(zip(answered, store.get(judge, answered, "en")[1], strict=True))
        unknown = [i for i, text in enumerate(answered) if not known[text]]
        assert all(i >= len(answered) - 60 for i in unknown), f"only the last answers can be lost, not {unknown} of {len(answered)}"
        scores = store.score(judge, TEXTS[:1500], "en")
        np.testing.assert_allclose(scores, [true_score(t) for t in TEXTS[:1500]])
        assert sum(server.answers().values()) == 1500 + lost


def test_several_attributes_in_one_call(tmp_path):
    with PerspectiveServer() as server:
        store, both = ScoreStore(tmp_path / "s.sqlite"), scorer(server, attributes=("TOXICITY", "INSULT"))
        assert store.score(both, ["a", "b"], "de").tolist() == [true_score(t, lang="de") for t in "ab"]
        insult = scorer(server, attributes=("INSULT",))
        assert store.score(insult, ["a", "b"], "de").tolist() == [true_score(t, "INSULT", "de") for t in "ab"]
        assert len(server.log) == 2, "the second score came along with the first"
        assert server.bodies[0]["doNotStore"] is True and server.bodies[0]["languages"] == ["de"]
        assert store.table()["version"].nunique() == 2


def test_permanent_failures_are_stored_with_their_reason(tmp_path):
    texts = ["fine", "", "x" * 30_000, "\ud800 odd"]
    with PerspectiveServer() as server:
        store, judge = ScoreStore(tmp_path / "s.sqlite"), scorer(server)
        judge.languages = judge.languages | {"am"}
        scores = store.score(judge, texts, "en")
        assert np.isnan(scores).tolist() == [False, True, True, False]
        assert np.isnan(store.score(judge, ["ሰላም"], "am")[0])
        reasons = store.table()["reason"].dropna().tolist()
        assert sorted(r.split(":")[0] for r in reasons) == ["COMMENT_EMPTY", "COMMENT_TOO_LONG", "LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE"]
        before = len(server.log)
        store.score(judge, texts, "en")
        assert len(server.log) == before == 5


def test_no_english_score_for_another_language():
    with PerspectiveServer() as server:
        with pytest.raises(InputError, match="scorer perspective does not support uk"):
            scorer(server).score(["привіт"], "uk")
        assert not server.log
        named = scorer(server, as_language={"uk": "en"})
        assert named.score(["привіт"], "uk")[0] == true_score("привіт", lang="en")
        assert server.bodies[0]["languages"] == ["en"] and named.name == "perspective, uk as en"
    with pytest.raises(InputError, match="does not support am"):
        scorer(server, as_language={"uk": "am"})


def test_a_fault_that_lasts_leaves_the_score_missing(tmp_path):
    with PerspectiveServer({"500": 0.5, "nonsense": 0.5}) as server:
        store = ScoreStore(tmp_path / "s.sqlite")
        assert np.isnan(store.score(scorer(server, attempts=3), ["a", "b"], "en")).all()
        assert len(server.log) == 6 and store.table().empty, "tried three times, and open for another day"


def test_a_service_that_asks_to_wait_is_obeyed(monkeypatch):
    waits = []
    monkeypatch.setattr(random, "uniform", lambda low, high: 1.0)
    with PerspectiveServer({"429": 1.0}, headers="retry-after: 7\r\n") as server:
        judge = scorer(server, attempts=2)
        real = judge._service._ask

        async def ask(*arguments):
            fault = await real(*arguments)
            waits.append(fault.after)
            return fault._replace(after=0.0)

        judge._service._ask = ask
        with pytest.raises(InputError, match="429 to each of 2 attempts; the key allows fewer than 400 requests"):
            judge.score(["a"], "en")
    assert waits == [7.0, 7.0]


def test_the_other_texts_are_kept_when_a_refusal_comes(tmp_path):
    with PerspectiveServer() as server:
        server.tamper = lambda found: {"attributeScores": {}} if len(server.log) > 200 else found
        server.faults = {}
        store = ScoreStore(tmp_path / "s.sqlite")
        scores = store.score(scorer(server, attempts=1), TEXTS[:400], "en")
        assert np.isfinite(scores).sum() == len(store.table()) <= 201 and np.isfinite(scores).sum() > 190
        server.tamper, server.status = None, 410
        with pytest.raises(InputError, match="HTTP 410"):
            store.score(scorer(server), TEXTS[:400], "en")
        assert len(store.table()) == np.isfinite(scores).sum()


@pytest.mark.parametrize("status, message", [
    (410, "HTTP 410 .*the service is not there.*Perspective ended with 2026.*archive:FOLDER"), (404, "HTTP 404 .*archive:FOLDER"),
    (403, "HTTP 403: This is over, .*; set PERSPECTIVE_API_KEY"), (401, "HTTP 401: .*set PERSPECTIVE_API_KEY"), (302, "HTTP 302 from .*: moved to")])
def test_a_refusal_is_one_clear_message(status, message):
    with PerspectiveServer(status=status) as server, pytest.raises(InputError, match=message) as e:
        scorer(server).score(["a", "b"], "en")
    assert "\n" not in str(e.value) and KEY not in str(e.value) and len(server.log) <= 2 * (status in (302, 401, 403, 404, 410)) + 1


def test_a_dead_host():
    with PerspectiveServer() as server:
        judge = scorer(server)
    with pytest.raises(InputError, match="cannot be reached. Perspective ended with 2026.*archive:FOLDER"):
        judge.score(["a"], "en")


@pytest.mark.parametrize("seconds, kind", [(2.1, "unreachable"), (600, "ConnectTimeout")])
def test_a_timeout_that_came_late_says_nothing_about_the_host(monkeypatch, seconds, kind):
    class Client:
        async def post(self, url, content):
            raise httpx.ConnectTimeout("")

    judge, clock = PerspectiveScorer(KEY, "http://127.0.0.1:9/x", timeout=2.0), iter([0.0, seconds])
    monkeypatch.setattr(service, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert asyncio.run(judge._service._ask(Client(), 0, "{}", None)).kind == kind


def test_the_end_and_a_missing_key(monkeypatch, tmp_path):
    with pytest.raises(InputError, match="no key; set the environment variable PERSPECTIVE_API_KEY"):
        load_scorer("perspective:default").score(["a"], "en")
    monkeypatch.setenv("PERSPECTIVE_API_KEY", KEY)
    load_scorer("perspective:default").ready()
    monkeypatch.setattr(perspective, "_today", lambda: datetime.date(2027, 1, 1))
    over = load_scorer("perspective:default")
    with pytest.raises(InputError, match="Perspective ended with 2026.*archive:FOLDER.*classifier:"):
        over.score(["a"], "en")
    store = ScoreStore(tmp_path / "s.sqlite")
    store.put(over, ["a"], "en", [0.5])
    assert store.score(over, ["a"], "en").tolist() == [0.5], "what is stored replays"


def test_the_key_is_nowhere(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("PERSPECTIVE_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    said = []
    with PerspectiveServer() as server:
        judge, store = load_scorer(f"perspective:{server.url}"), ScoreStore(tmp_path / "s.sqlite")
        store.score(judge, ["a"], "en")
        said += [repr(judge), repr(vars(judge)), judge.version, judge.name, store.table().to_csv()]
        for settings in ({"status": 500}, {"status": 403}, {"status": 400}):
            server.status = settings["status"]
            try:
                said.append(repr(scorer(server, attempts=1).assess(["b"], "en")))
            except InputError as e:
                said += [str(e), *traceback.format_exception(e)]
        wrong = PerspectiveScorer("another-key-987654321", server.url, qps=400)
        server.status = None
        with pytest.raises(InputError, match=r"API key not valid: \*\*\*; set PERSPECTIVE_API_KEY"):
            wrong.score(["c"], "en")
    assert caplog.text and KEY not in caplog.text + "".join(said)


@pytest.mark.parametrize("make, message", [
    (lambda: PerspectiveScorer(KEY, qps=0), "a quota of 0"), (lambda: PerspectiveScorer(KEY, qps=float("nan")), "a quota of nan"),
    (lambda: PerspectiveScorer(KEY, "localhost:80"), "is not an address"),
    (lambda: PerspectiveScorer(KEY, f"https://host/x?key={KEY}"), "'https://host/x' is not an address such as .* without user, key or query"),
    (lambda: PerspectiveScorer(KEY, attributes=("RUDE",)), "no attribute RUDE; there are TOXICITY"),
    (lambda: PerspectiveScorer(KEY, attributes=()), "no attribute none"),
    (lambda: load_scorer("perspective:default#am"), "does not support"),
    (lambda: check_spec("perspective:default", ["en", "am"]), "languages: scorer perspective:default does not support am"),
])
def test_what_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_specs_and_the_environment(monkeypatch):
    check_spec("perspective:default#am=en,uk=en", ["en", "am", "uk"])
    monkeypatch.setenv("PERSPECTIVE_QPS", "12.5")
    assert load_scorer("perspective:default")._service.quota.qps == 12.5
    monkeypatch.setenv("PERSPECTIVE_QPS", "plenty")
    with pytest.raises(InputError, match="PERSPECTIVE_QPS is 'plenty'"):
        load_scorer("perspective:default")


def test_a_score_out_of_range_is_none(tmp_path):
    def tamper(found):
        return {"attributeScores": {"TOXICITY": {"summaryScore": {"value": 1.5}}}}

    with PerspectiveServer(tamper=tamper) as server:
        store, judge = ScoreStore(tmp_path / "s.sqlite"), scorer(server, attempts=2)
        assert np.isnan(store.score(judge, ["a"], "en")).all() and store.table().empty
        assert judge.missing == {"a score of 1.5, and toxicity is between 0 and 1": 1}


def test_an_interrupted_stream_ends_its_thread():
    import threading

    with PerspectiveServer({"hang": 1.0}) as server:
        before = threading.active_count()
        judge = scorer(server, timeout=600)
        batches = judge.stream(["a", "b"], "en")
        server.faults = {}
        judge.score(["c"], "en")
        del batches
        server.faults = {"hang": 0.5}
        stream = judge.stream(TEXTS[:100], "en")
        next(stream)
        stream.close()
        assert threading.active_count() == before


class Chat:
    "A server of the OpenAI protocol in the clothes of the other"

    def __init__(self, say):
        self.server = PerspectiveServer()
        self.server._answer = self.answer
        self.say = say

    async def answer(self, first, headers, body, writer):
        self.server.bodies.append((first.split()[1], headers.get("authorization"), body))
        code, found = self.say(body)
        content = json.dumps(found).encode()
        writer.write(f"HTTP/1.1 {code} X\r\ncontent-length: {len(content)}\r\n\r\n".encode() + content)
        return True

    def url(self, call):
        return f"http://127.0.0.1:{self.server.port}/v1/{call}"


def rated(text):
    return 200, {"choices": [{"message": {"role": "assistant", "content": text}}]}


def test_a_chat_judge(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-a-real-key")
    said = {"a": "70", "b": "I'm sorry, but no.", "c": "0", "d": None, "e": "101"}
    chat = Chat(lambda body: rated(said[body["messages"][1]["content"]]))
    with chat.server:
        store, judge = ScoreStore(tmp_path / "s.sqlite"), load_scorer(f"openai:{chat.url('chat/completions')}#tiny")
        np.testing.assert_array_equal(store.score(judge, list(said), "de"), [0.7, np.nan, 0.0, np.nan, np.nan])
        path, key, body = chat.server.bodies[0]
        assert (path, key) == ("/v1/chat/completions", "Bearer sk-not-a-real-key") and body["temperature"] == 0 and body["model"] == "tiny"
        assert "in German" in body["messages"][0]["content"]
        assert store.table()["reason"].isna().all() and judge.missing == {"an answer that is no rating": 3}
        n = len(chat.server.bodies)
        store.score(judge, list(said), "de")
        assert len(chat.server.bodies) == n + 3, "what is no rating today may be one tomorrow"
    assert judge.version != EndpointScorer(chat.url("chat/completions"), "other").version


def test_a_moderation_endpoint():
    scores = {"hate": 0.2, "harassment": 0.65, "violence": 0.99}
    chat = Chat(lambda body: (200, {"results": [{"category_scores": scores}]}))
    with chat.server:
        judge = EndpointScorer(chat.url("moderations"), "tiny", qps=400)
        assert judge.score(["a"], "en").tolist() == [0.65] and chat.server.bodies[0][2] == {"model": "tiny", "input": "a"}
        scores.clear()
        scores["spam"] = 0.5
        with pytest.raises(InputError, match="none of the categories harassment.* among spam"):
            judge.score(["b"], "en")


@pytest.mark.parametrize("code, message", [(400, None), (401, "set OPENAI_API_KEY"), (404, "the service is not there"), (302, "HTTP 302 from .*: moved to")])
def test_errors_of_an_endpoint(code, message):
    chat = Chat(lambda body: (code, {"error": {"message": "the model's maximum context length is 5 tokens"}}))
    with chat.server:
        judge = EndpointScorer(chat.url("chat/completions"), "tiny", qps=400)
        if message:
            with pytest.raises(InputError, match=message):
                judge.score(["a"], "en")
        else:
            assert judge.assess(["a"], "en")[1] == ["HTTP 400: the model's maximum context length is 5 tokens"]


TOO_LONG = [
    {"message": "This model's maximum context length is 2048 tokens. However, you requested 2100"},
    {"message": "no", "code": "context_length_exceeded"},
    {"message": "no", "type": "exceed_context_size_error"},
    {"message": "Input too long: the text has 9000 tokens"},
    {"message": "Request Entity Too Large"},
    {"message": "language am is not supported"},
    {"message": "no", "code": "string_above_max_length"},
    {"message": "no", "code": "unsupported_language"},
]
TODAY = [
    {"message": "Unsupported parameter: temperature"},
    {"message": "no quota left for this project", "code": "billing_hard_limit_reached"},
    {"message": ""},
    "refused",
    {"message": "the content management policy was triggered", "code": "content_filter"},
    {"message": "temperature is too large", "code": 400},
    {},
]


@pytest.mark.parametrize("code", [400, 413, 422])
@pytest.mark.parametrize("call", ["chat/completions", "moderations"])
def test_only_what_a_server_says_about_the_text_is_final(tmp_path, code, call):
    errors = {f"text {i}": error for i, error in enumerate([*TOO_LONG, *TODAY])}
    chat = Chat(lambda body: (code, {"error": errors[body["input"] if "input" in body else body["messages"][1]["content"]]}))
    with chat.server:
        ask = lambda: EndpointScorer(chat.url(call), "tiny", qps=400)  # noqa: E731
        store, judge = ScoreStore(tmp_path / "s.sqlite"), ask()
        assert np.isnan(store.score(judge, list(errors), "en")).all(), "missing, and no 0"
        final = store.table()
        assert len(final) == len(TOO_LONG) and final["reason"].str.startswith(f"HTTP {code}: ").all() and final["toxicity"].isna().all()
        assert sum(judge.missing.values()) == len(TODAY) and len(chat.server.bodies) == len(errors), "counted, and not asked again at once"
        with pytest.raises(Unanswered, match=f"{len(TODAY)} scores are missing: .*, and other reasons;") as said:
            check_answered(judge)
        assert "temperature is too large" not in str(said.value) or str(said.value).count("HTTP") <= 5
        store.score(ask(), list(errors), "en")
        assert len(chat.server.bodies) == len(errors) + len(TODAY)


@pytest.mark.parametrize("spec", ["openai:http://h/v1#m", "openai:http://h/v1/chat/completions", "openai:http://h/v1/embeddings#m"])
def test_an_endpoint_needs_a_call_and_a_model(spec):
    with pytest.raises(InputError, match="give URL#MODEL, where the URL ends in"):
        load_scorer(spec)
