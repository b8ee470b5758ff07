"""What a service may do that looks like success: each is said, nothing is paid twice, and the quota holds over all processes."""
import datetime
import gzip
import http.server
import json
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from xlingtox import cli
from xlingtox.core import InputError
from xlingtox.scorers import capped, perspective, quota
from xlingtox.scorers.by_name import Unanswered, check_answered, score_generations
from xlingtox.scorers.perspective import PerspectiveScorer
from xlingtox.scorers.store import ScoreStore

from perspective_server import KEY, PerspectiveServer, true_score


@pytest.fixture(autouse=True)
def before_the_end(monkeypatch, tmp_path):
    monkeypatch.setattr(perspective, "_today", lambda: datetime.date(2026, 6, 1))
    monkeypatch.setenv("XLINGTOX_CACHE", str(tmp_path / "cache"))
    for name in ("PERSPECTIVE_API_KEY", "PERSPECTIVE_QPS"):
        monkeypatch.delenv(name, raising=False)


def scorer(url, **settings):
    return PerspectiveScorer(KEY, url, **{"qps": 200, "timeout": 1.0, "attempts": 2, "backoff": 0.01, **settings})


class Says(http.server.BaseHTTPRequestHandler):
    "Answers each request in one way"

    protocol_version = "HTTP/1.1"
    status, body, headers, drip, asked = 200, b"", {}, 0.0, Counter()

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.asked[self.path] += 1
        self.send_response(self.status)
        for name, value in {"Content-Length": len(self.body), **type(self).extra}.items():
            self.send_header(name, value)
        self.end_headers()
        for byte in self.body:
            self.wfile.write(bytes([byte]))
            if self.drip:
                self.wfile.flush()
                time.sleep(self.drip)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    "A function that starts a server with one answer; its address"
    started = []

    def start(status=200, body=b"", headers=None, drip=0.0):
        handler = type("Handler", (Says,), {"status": status, "body": body, "extra": headers or {}, "drip": drip, "asked": Counter()})
        started.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        started[-1].handle_error = lambda *_: None  # a client that has given up is no error
        threading.Thread(target=started[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{started[-1].server_port}/v1", handler

    yield start
    for s in started:
        s.shutdown()


SCORE = b'{"attributeScores": {"TOXICITY": {"summaryScore": {"value": %s}}}}'


@pytest.mark.parametrize("status, body, why", [
    (500, b"", "HTTP 500"), (200, b"", "JSONDecodeError"), (200, b"{", "JSONDecodeError"), (200, b"<html>", "JSONDecodeError"),
    (200, SCORE % b"1.7", "a score of 1.7"), (200, SCORE % b"NaN", "a score of nan"), (200, SCORE % b'"much"', "TypeError"),
    (400, b'{"error": {"code": 400, "message": "something new"}}', "something new"), (400, b'{"error": {}}', "HTTP 400")])
def test_texts_without_a_score_are_counted_and_asked_for_again(server, tmp_path, status, body, why):
    url, handler = server(status, body)
    judge, store = scorer(url), ScoreStore(tmp_path / "s.sqlite")
    assert np.isnan(store.score(judge, ["a", "b"], "en")).all() and store.table().empty, "nothing of it is final"
    with pytest.raises(Unanswered, match="2 scores are missing") as said:
        check_answered(judge)
    assert why in str(said.value) and KEY not in str(said.value)
    handler.status, handler.body = 200, SCORE % b"0.25"
    assert store.score(scorer(url), ["a", "b"], "en").tolist() == [0.25, 0.25]


@pytest.mark.parametrize("status, headers, why", [
    (302, {"Location": "https://elsewhere/x?key=y"}, "moved to https://elsewhere/x;"), (401, {}, "PERSPECTIVE_API_KEY"), (403, {}, "PERSPECTIVE_API_KEY"),
    (407, {}, "a proxy asks"), (404, {}, "is not there")])
def test_what_refuses_all_texts_is_asked_once(server, status, headers, why):
    url, handler = server(status, b"<html>no</html>", headers)
    with pytest.raises(InputError, match="scorer perspective: HTTP") as said:
        scorer(url).score([f"text {i}" for i in range(3)], "en")
    assert why in str(said.value) and sum(handler.asked.values()) <= 3


def test_a_key_that_has_expired_is_no_property_of_the_text(server, tmp_path):
    url, handler = server(400, b'{"error": {"code": 400, "message": "API key expired. Please renew the API key."}}')
    store = ScoreStore(tmp_path / "s.sqlite")
    with pytest.raises(InputError, match="API key expired"):
        store.score(scorer(url), ["a"], "en")
    assert store.table().empty


@pytest.mark.parametrize("key", ["a-secret-key\n", " a-secret-key", "a-secrét-key", "a\tsecret"])
def test_a_key_is_checked_before_the_first_request(server, key):
    url, handler = server(200, SCORE % b"0.5")
    with pytest.raises(InputError, match="the key has") as said:
        PerspectiveScorer(key, url)
    assert "secr" not in str(said.value) and not handler.asked


def test_an_answer_that_does_not_end_is_given_up(server):
    url, _ = server(200, SCORE % b"0.5", drip=0.4)
    start, judge = time.monotonic(), scorer(url, timeout=0.5, attempts=2)
    assert np.isnan(judge.score(["a"], "en")).all() and time.monotonic() - start < 8
    assert "does not end" in " ".join(judge.missing)


class Floods(http.server.BaseHTTPRequestHandler):
    "Answers the text `flood` with 300 MB, packed or not, and every other one with a score; counts what it could send"

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        flood = b'"flood"' in self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked[flood] += 1
        body = SCORE % b"0.25"
        self.send_response(200)
        self.send_header("Content-Length", self.server.size if flood else len(body))
        if flood and self.server.packed:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        if not flood:
            return self.wfile.write(body)
        piece = self.server.packed or b" " * 1_000_000
        for _ in range(self.server.size // len(piece)):
            self.wfile.write(piece)
            self.server.sent += len(piece)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("packed", [False, True])
def test_an_answer_of_300_megabytes_is_left_and_its_neighbours_are_kept(tmp_path, packed):
    there = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Floods)
    there.packed = gzip.compress(b" " * 300_000_000, 1) if packed else b""
    there.size, there.sent, there.asked, there.handle_error = len(there.packed) or 300_000_000, 0, Counter(), lambda *_: None
    threading.Thread(target=there.serve_forever, daemon=True).start()
    judge, store = scorer(f"http://127.0.0.1:{there.server_port}/v1", timeout=20, attempts=4), ScoreStore(tmp_path / "s.sqlite")
    tracemalloc.start()
    found = store.score(judge, ["a", "flood", "b"], "en")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    there.shutdown()
    assert np.isnan(found).tolist() == [False, True, False] and there.asked[True] == 1, "it is not asked for again at once"
    assert judge.missing == {"an answer of more than 1 MiB": 1} and len(store.table()) == 2
    assert most < 120e6 and (packed or there.sent < 60e6), (most, there.sent)  # 300 MB would not go in
    with pytest.raises(Unanswered, match=r"1 score is missing: an answer of more than 1 MiB \(1\); what came in is kept"):
        check_answered(judge)


@pytest.mark.parametrize("status, why", [(403, "PERSPECTIVE_API_KEY"), (404, "is not there"), (302, "moved to")])
def test_a_refusal_remains_one_if_its_page_is_too_long(server, monkeypatch, status, why):
    monkeypatch.setattr(capped, "MOST_BYTES", 1000)
    url, _ = server(status, b"x" * 3000)
    with pytest.raises(InputError, match="scorer perspective: HTTP") as said:
        scorer(url, timeout=20).score(["a"], "en")
    assert why in str(said.value) and len(str(said.value)) < 700


def test_a_quota_that_would_never_end():
    with pytest.raises(InputError, match="one in 1000000000 seconds"):
        PerspectiveScorer(KEY, "http://127.0.0.1:9/v1", qps=1e-9)


def test_a_score_that_is_none_leaves_its_neighbours(tmp_path):
    def spoil(found):
        value = found["attributeScores"]["TOXICITY"]["summaryScore"]
        value["value"] = 1.7 if value["value"] == true_score("text 3") else value["value"]
        return found

    with PerspectiveServer(tamper=spoil) as there:
        store, judge, texts = ScoreStore(tmp_path / "s.sqlite"), scorer(there.url), [f"text {i}" for i in range(8)]
        found = store.score(judge, texts, "en")
        assert np.isnan(found).tolist() == [i == 3 for i in range(8)] and judge.missing
        before = len(there.log)
        store.score(scorer(there.url), texts, "en")
        assert {text for _, text, _ in there.log[before:]} == {"text 3"}, "only the one is asked for again"


def test_the_key_stays_hidden_wherever_it_is_echoed(server, tmp_path):
    url, _ = server(400, json.dumps({"error": {"code": 400, "message": "no", "details": [{"errorType": f"COMMENT_EMPTY {KEY}"}]}}).encode())
    judge, store = scorer(url), ScoreStore(tmp_path / "s.sqlite")
    store.score(judge, ["a"], "en")
    assert KEY not in repr(judge.missing) + store.table().to_csv() and KEY.encode() not in (tmp_path / "s.sqlite").read_bytes()


def test_failures_can_be_forgotten(tmp_path, capsys, monkeypatch):
    store, judge = ScoreStore(tmp_path / "s.sqlite"), scorer("http://127.0.0.1:9/v1")
    store.put(judge, ["a", "b"], "en", np.array([0.5, np.nan]), [None, "COMMENT_TOO_LONG: x"])
    store.close()
    monkeypatch.setattr(sys, "argv", ["xlingtox", "scores", "forget", "--store", str(tmp_path / "s.sqlite"), "--lang", "en"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0 and capsys.readouterr().out == "1 failures forgotten\n"
    assert ScoreStore(tmp_path / "s.sqlite").table()["toxicity"].tolist() == [0.5]


@pytest.mark.parametrize("words, why", [
    (("--scorer", "perspectiv"), "holds nothing of the scorer 'perspectiv' (did you mean perspective?); it has lexicon, perspective"),
    (("--lang", "de"), "holds nothing of the language 'de'; it has en, fr"),
    (("--scorer", "lexicon", "--lang", "en"), "holds nothing of the language 'en'"),
    (("--scorer", ""), "holds nothing of the scorer ''")])
def test_a_name_that_the_store_does_not_hold_forgets_nothing(tmp_path, capsys, monkeypatch, words, why):
    store, judge = ScoreStore(tmp_path / "s.sqlite"), scorer("http://127.0.0.1:9/v1")
    store.put(judge, ["a", "b"], "en", np.array([0.5, np.nan]), [None, "COMMENT_TOO_LONG: x"])
    store._insert([("lexicon", "1", "fr", b"0" * 32, None, "a reason")])
    store.close()
    monkeypatch.setattr(sys, "argv", ["xlingtox", "scores", "forget", "--store", str(tmp_path / "s.sqlite"), *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "") and why in said.err and said.err.count("\n") == 1
    assert ScoreStore(tmp_path / "s.sqlite").table()["reason"].notna().sum() == 2


def test_a_stored_value_that_is_no_score_is_named(tmp_path):
    store = ScoreStore(tmp_path / "s.sqlite")
    store._insert([("perspective", "v1", "en", b"0" * 32, 7.5, None)])
    with pytest.raises(InputError, match=r"s\.sqlite: holds a toxicity of 7\.5 of perspective"):
        store.table()
    assert store.forget() == 1 and store.table().empty


def test_a_damaged_store_is_named(tmp_path):
    store, judge = ScoreStore(tmp_path / "s.sqlite"), scorer("http://127.0.0.1:9/v1")
    store.put(judge, [f"text {i}" for i in range(900)], "en", np.full(900, 0.5))
    store.close()
    raw = bytearray((tmp_path / "s.sqlite").read_bytes())
    raw[5000:] = b"\x07" * (len(raw) - 5000)
    (tmp_path / "s.sqlite").write_bytes(raw)
    with pytest.raises(InputError, match=r"s\.sqlite: not a score store"):
        ScoreStore(tmp_path / "s.sqlite").table()


def command(server, tmp_path, monkeypatch):
    "The status of `xlingtox score` with a service"
    rows = [("m", "en", f"p{i}", 0, f"text {i}") for i in range(4)]
    pd.DataFrame(rows, columns=["model", "lang", "prompt_id", "sample", "text"]).to_csv(tmp_path / "g.csv", index=False)
    monkeypatch.setenv("PERSPECTIVE_QPS", "200")
    words = ["--in", str(tmp_path / "g.csv"), "--scorer", f"perspective:{server}", "--out", str(tmp_path / "s.csv")]
    monkeypatch.setattr(sys, "argv", ["xlingtox", "score", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_the_command_ends_with_status_1_where_a_service_failed(server, tmp_path, monkeypatch):
    monkeypatch.setattr("xlingtox.scorers.service._pause", lambda *_: 0.0)
    url, handler = server(500, b"")
    assert "4 scores are missing: HTTP 500 (4)" in command(url, tmp_path, monkeypatch)  # a text as status is printed, and the status is 1
    assert pd.read_csv(tmp_path / "s.csv")["toxicity"].isna().all()
    handler.status, handler.body = 200, SCORE % b"0.25"
    assert command(url, tmp_path, monkeypatch) == 0
    assert (pd.read_csv(tmp_path / "s.csv")["toxicity"] == 0.25).all()


RIVAL = """
import sys, pandas as pd
from xlingtox.scorers.by_name import score_generations
from xlingtox.scorers.perspective import PerspectiveScorer
from xlingtox.scorers.store import ScoreStore
url, key, path, qps, first = sys.argv[1:]
rows = [("m", "en", f"p{i}", 0, f"text {i}") for i in range(int(first), int(first) + 60)]
table = pd.DataFrame(rows, columns=["model", "lang", "prompt_id", "sample", "text"])
print("ready", flush=True); sys.stdin.readline()
store = ScoreStore(path)
print(score_generations(table, PerspectiveScorer(key, url, qps=float(qps)), store)["toxicity"].notna().sum())
"""


def test_two_processes_share_the_quota_and_the_texts(tmp_path):
    with PerspectiveServer() as there:
        rivals = [subprocess.Popen([sys.executable, "-c", RIVAL, there.url, KEY, tmp_path / "s.sqlite", "20", str(first)], text=True,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for first in (0, 20)]
        for rival in rivals:
            assert rival.stdout.readline() == "ready\n"
        for rival in rivals:
            rival.stdin.write("\n")
            rival.stdin.flush()
        said = [rival.communicate(timeout=120) for rival in rivals]
        assert [out for out, _ in said] == ["60\n", "60\n"], said
        assert there.answers() == {f"text {i}": 1 for i in range(80)}, "no text is asked for twice"
        late = there.lag > 0.015  # requests that came one after the other are then seen at once
        assert there.most_in_a_second() <= 20 + 20 * late and (late or there.rate() <= 20)


def test_a_request_that_another_process_sent_while_this_one_waited_for_the_file_counts(tmp_path, monkeypatch):
    "The time at which the quota is held decides, not the one at which it was asked for"
    clock, file = [100.0], tmp_path / "quota"
    monkeypatch.setattr(quota.time, "monotonic", lambda: clock[0])

    def held_at_last(f):
        clock[0] = 100.4
        file.write_bytes(np.array([100.45, 100.4]).tobytes())  # what the other has left: when the next is due, and when its own went

    monkeypatch.setattr(quota, "_lock", held_at_last)
    assert quota.Quota(20, file).take() == pytest.approx(0.05)


def test_what_a_killed_process_had_claimed_is_taken_over(tmp_path):
    with PerspectiveServer(faults={"hang": 1.0}) as there:
        rival = subprocess.Popen([sys.executable, "-c", RIVAL, there.url, KEY, tmp_path / "s.sqlite", "200", "0"], text=True,
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        rival.stdout.readline()
        rival.stdin.write("\n")
        rival.stdin.flush()
        deadline = time.monotonic() + 60
        while len(there.log) < 20 and time.monotonic() < deadline:
            time.sleep(0.01)
        rival.kill()
        rival.wait()
        there.faults = {}
        store, texts = ScoreStore(tmp_path / "s.sqlite"), [f"text {i}" for i in range(60)]
        assert np.isfinite(store.score(scorer(there.url), texts, "en")).all()
        store.close()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".s.sqlite")], "no lock is left"


def test_one_scorer_for_both_uses_of_a_table(tmp_path):
    with PerspectiveServer() as there:
        table = pd.DataFrame([("m", "en", "p", i, "the same") for i in range(3)], columns=["model", "lang", "prompt_id", "sample", "text"])
        found = score_generations(table, scorer(there.url), ScoreStore(tmp_path / "s.sqlite"))
        assert found["toxicity"].tolist() == [true_score("the same")] * 3 and len(there.log) == 1
