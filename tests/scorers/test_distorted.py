"""A scorer that stands on another passes on what is known of the scores: languages, versions, reasons, and what is missing."""
import http.server
import json
import threading

import numpy as np
import pytest
from xlingtox.core import InputError
from xlingtox.profiles.costs import quota
from xlingtox.profiles.shadow import shadow_scorer
from xlingtox.scorers.by_name import Unanswered, billions_of, check_answered, check_spec, innermost, load_scorer
from xlingtox.scorers.distorted import BiasedScorer, NoisyScorer
from xlingtox.scorers.endpoint import EndpointScorer
from xlingtox.scorers.store import ScoreStore

TEXTS = ["fine", "no", "much too long"]


@pytest.fixture
def service():
    "A moderation service that refuses one text for the day, one for good, and scores the others; its address and its handler"
    class Says(http.server.BaseHTTPRequestHandler):
        model, asked = "omni-2024", []

        def do_POST(self):
            text = json.loads(self.rfile.read(int(self.headers["content-length"])))["input"]
            self.asked.append(text)
            wrong = {"no": "not today", "much too long": "the text is too long"}.get(text)
            found = {"error": {"message": wrong}} if wrong else {"model": self.model, "results": [{"category_scores": {"hate": 0.5}}]}
            content = json.dumps(found).encode()
            self.send_response(400 if wrong else 200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Says)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/moderations", Says
    server.shutdown()


@pytest.mark.parametrize("wrap", [NoisyScorer, BiasedScorer, lambda s: NoisyScorer(BiasedScorer(s))])
def test_what_is_missing_is_counted_and_only_what_is_final_is_kept(service, tmp_path, wrap):
    url, handler = service
    ask = lambda: wrap(EndpointScorer(url, "tiny", qps=400))  # noqa: E731
    store, judge = ScoreStore(tmp_path / "s.sqlite"), ask()
    assert np.isnan(store.score(judge, TEXTS, "en")).tolist() == [False, True, True]
    with pytest.raises(Unanswered, match="1 score is missing: HTTP 400: not today"):
        check_answered(judge)
    kept = store.table()
    assert sorted(kept["reason"].dropna()) == ["HTTP 400: the text is too long"] and len(kept) == 2
    store.score(ask(), TEXTS, "en")
    assert handler.asked.count("no") == 2 and len(handler.asked) == 4, "what is stored is not asked for again"


def test_another_model_of_the_service_is_another_version(service, tmp_path, capsys):
    url, handler = service
    ask = lambda: NoisyScorer(EndpointScorer(url, "tiny", qps=400))  # noqa: E731
    store = ScoreStore(tmp_path / "s.sqlite")
    store.score(ask(), ["fine"], "en")
    assert [v.partition(" answered by ")[2] for v in store.table()["version"]] == ["omni-2024"]
    handler.model = "omni-2026"
    store.score(ask(), ["fine", "kind"], "en")
    assert "answers as omni-2026 now, and as omni-2024 before" in capsys.readouterr().err
    assert sorted(v.partition(" answered by ")[2] for v in store.table()["version"]) == ["omni-2024", "omni-2026", "omni-2026"]


@pytest.mark.parametrize("kind", ["noisy", "biased", "noisy:biased"])
def test_languages_are_those_of_the_scorer_behind(kind):
    assert load_scorer(f"{kind}:lexicon:babel").languages == load_scorer("lexicon:babel").languages
    assert load_scorer(f"{kind}:openai:http://h/v1/moderations#m").languages is None
    with pytest.raises(InputError, match="does not support am"):
        check_spec(f"{kind}:perspective:default", ["am"])


@pytest.mark.parametrize("kind", ["noisy", "biased", "biased:noisy"])
def test_a_service_behind_it_is_waited_for_and_never_asked_in_a_rehearsal(kind):
    assert quota(f"{kind}:perspective:default") == quota("perspective:default") and quota(f"{kind}:lexicon:babel") is None
    assert billions_of(f"{kind}:guard:Qwen/Qwen3Guard-Gen-0.6B") == 0.75 and innermost(f"{kind}:lexicon:babel") == "lexicon:babel"
    assert [shadow_scorer(f"{kind}:{s}") for s in ("perspective:default", "lexicon:babel")] == [f"{kind}:lexicon:babel"] * 2
