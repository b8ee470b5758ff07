"Which model a service answers with: kept with each score, and said when it changes."
import asyncio
import datetime
import json
import math
import threading

import numpy as np
import pandas as pd
import pytest
from xlingtox.core import InputError
from xlingtox.scorers import perspective
from xlingtox.scorers.archive import export_scores, import_scores
from xlingtox.scorers.by_name import check_spec, load_scorer, score_generations
from xlingtox.scorers.endpoint import EndpointScorer
from xlingtox.scorers.guard import known_guard
from xlingtox.scorers.perspective import PerspectiveScorer
from xlingtox.scorers.service import Answer
from xlingtox.scorers.store import ScoreStore, _Turn, full_version, text_hash

from perspective_server import KEY, PerspectiveServer

MODERATION, CHAT = "/v1/moderations", "/v1/chat/completions"


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    for name in ("PERSPECTIVE_API_KEY", "PERSPECTIVE_QPS", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(perspective, "_today", lambda: datetime.date(2026, 6, 1))


class Served(PerspectiveServer):
    "A server whose answers a test decides, and what it was asked"

    def __init__(self, say):
        super().__init__()
        self.say, self.seen = say, []

    async def _answer(self, first, headers, body, writer):
        self.seen.append((first.split()[1], headers, body))
        content = json.dumps(self.say(body)).encode()
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(content)}\r\n\r\n".encode() + content)
        await asyncio.sleep(0)
        return True

    def address(self, call):
        return f"http://127.0.0.1:{self.port}{call}"


class Moderation:
    "A moderation service whose model changes; the newer one scores half as high"

    model = "omni-2024"

    def __call__(self, body):
        value = len(body["input"]) / (20 if self.model == "omni-2024" else 40)
        return {"id": "x", **({"model": self.model} if self.model else {}), "results": [{"category_scores": {"harassment": value}}]}


def moderation(server):
    return EndpointScorer(server.address(MODERATION), "omni-latest", qps=400)


def test_the_model_that_answers_is_kept_with_each_score(tmp_path):
    with Served(Moderation()) as server:
        store, scorer = ScoreStore(tmp_path / "s.sqlite"), moderation(server)
        np.testing.assert_allclose(store.score(scorer, ["ab", "abcd"], "en"), [0.1, 0.2])
        assert store.table()["version"].tolist() == [f"{scorer.version} answered by omni-2024"] * 2 == [full_version(scorer)] * 2
        store.score(moderation(server), ["ab", "abcd"], "en")
        assert len(server.seen) == 2, "the next process finds them"


def test_a_change_is_said_and_scores_of_the_model_before_are_not_reused(tmp_path, capsys):
    say = Moderation()
    with Served(say) as server:
        store = ScoreStore(tmp_path / "s.sqlite")
        store.score(moderation(server), ["ab", "abcd"], "en")
        assert capsys.readouterr().err == ""
        say.model = "omni-2026"
        scorer = moderation(server)
        np.testing.assert_allclose(store.score(scorer, ["ab", "abcdef", "abcd", "ab"], "en"), [0.05, 0.15, 0.1, 0.05])
        said = capsys.readouterr().err
        assert "answers as omni-2026 now, and as omni-2024 before" in said and "2 texts of this table are asked for again" in said
        assert len(server.seen) == 2 + 3
        assert store.table().groupby("version").size().to_dict() == {f"{scorer.version} answered by omni-2024": 2, f"{scorer.version} answered by omni-2026": 3}
        np.testing.assert_allclose(store.score(moderation(server), ["ab", "abcdef", "abcd"], "en"), [0.05, 0.15, 0.1])
        assert len(server.seen) == 5 and capsys.readouterr().err == "", "settled"


def test_scores_without_a_version_are_not_taken_for_those_of_a_model(tmp_path, capsys):
    say = Moderation()
    say.model = ""
    with Served(say) as server:
        store = ScoreStore(tmp_path / "s.sqlite")
        store.score(moderation(server), ["ab"], "en")
        say.model = "omni-2024"
        np.testing.assert_allclose(store.score(moderation(server), ["ab", "abcd"], "en"), [0.1, 0.2])
        assert "did not say as what before" in capsys.readouterr().err and len(server.seen) == 3


def test_one_table_is_of_one_model_when_it_changes_between_languages(tmp_path, capsys):
    say = Moderation()

    def change(body):
        if body["input"] == "abcdef":
            say.model = "omni-2026"
        return say(body)

    table = pd.DataFrame([("m", lang, "p", i, text) for lang, texts in (("en", ["ab", "abcd"]), ("de", ["abcdef"])) for i, text in enumerate(texts)],
                         columns=["model", "lang", "prompt_id", "sample", "text"])
    with Served(change) as server:
        store = ScoreStore(tmp_path / "s.sqlite")
        scores = score_generations(table, moderation(server), store)
        np.testing.assert_allclose(scores["toxicity"], [0.05, 0.1, 0.15])
        assert len(server.seen) == 5 and "now, and as omni-2024 before" in capsys.readouterr().err


def test_models_by_turns_come_to_an_end(tmp_path, capsys):
    say, n = Moderation(), iter(range(10_000))

    def turns(body):
        say.model = "omni-2026" if next(n) % 2 else "omni-2024"
        return say(body)

    with Served(turns) as server:
        store = ScoreStore(tmp_path / "s.sqlite")
        with pytest.raises(InputError, match="two models of the service answer by turns"):
            store.score(moderation(server), ["a", "ab", "abc"], "en")
        assert len(server.seen) < 12 and len(store.table()) > 3, "no table of two scales, and what was answered is kept"


def test_another_model_in_between_is_noticed(tmp_path, capsys):
    say = Moderation()

    def change(body):
        say.model = "omni-2026" if len(server.seen) == 3 else "omni-2024"
        return say(body)

    with Served(change) as server:
        store = ScoreStore(tmp_path / "s.sqlite")
        store.score(moderation(server), ["x"], "en")
        np.testing.assert_allclose(store.score(moderation(server), ["ab", "abcd", "abcdef"], "en"), [0.1, 0.2, 0.3])
        assert len(server.seen) == 5 and "1 texts of this table are asked for again" in capsys.readouterr().err


def test_two_at_work_ask_once_before_either_knows_the_model(tmp_path):
    texts, stores = [f"text {i}" for i in range(8)], [ScoreStore(tmp_path / "s.sqlite") for _ in range(2)]
    with Served(Moderation()) as server:
        stores[0]._turn = _Turn(stores[0]._path)
        scorer = moderation(server)
        stores[0]._claim(scorer, "en", [text_hash(t) for t in texts])
        work = stores[0]._mine(scorer, texts, "en")
        other = threading.Thread(target=lambda: ScoreStore(tmp_path / "s.sqlite").score(moderation(server), texts, "en"))
        other.start()
        list(work)
        stores[0]._let_go()
        other.join(20)
        assert len(server.seen) == len(texts) and not other.is_alive()
        stores[0]._turn.end()


def test_a_failure_for_good_is_known_beside_the_scores_of_a_model(tmp_path):
    class Fussy:
        name, version, languages, answered, asked = "fussy", "1", None, None, 0

        def stream(self, texts, lang):
            for place, text in enumerate(texts):
                self.asked += 1
                self.answered = self.answered if text == "bad" else "m-1"
                yield [Answer(place, math.nan, "refused") if text == "bad" else Answer(place, 0.5, answered="m-1")]

    store, again = ScoreStore(tmp_path / "s.sqlite"), Fussy()
    first = store.score(Fussy(), ["good", "bad"], "en")
    np.testing.assert_array_equal(store.score(again, ["good", "bad"], "en"), first)
    assert again.asked == 0 and np.isnan(first[1])


def test_a_store_filled_from_an_archive_knows_the_model(tmp_path):
    with Served(Moderation()) as server:
        store = ScoreStore(tmp_path / "s.sqlite")
        store.score(moderation(server), ["ab", "abcd"], "en")
        export_scores(store, tmp_path / "archive")
        other = ScoreStore(tmp_path / "other.sqlite")
        import_scores(tmp_path / "archive", other)
        np.testing.assert_allclose(other.score(moderation(server), ["ab", "abcd"], "en"), [0.1, 0.2])
        assert len(server.seen) == 2
        np.testing.assert_allclose(load_scorer(f"archive:{tmp_path}/archive").score(["ab"], "en"), [0.1])


def test_an_archive_of_two_models_is_replayed_one_at_a_time(tmp_path):
    say = Moderation()
    with Served(say) as server:
        store = ScoreStore(tmp_path / "s.sqlite")
        store.score(moderation(server), ["ab"], "en")
        say.model = "omni-2026"
        store.score(moderation(server), ["ab", "abcd"], "en")
        version = moderation(server).version
    export_scores(store, tmp_path / "a")
    with pytest.raises(InputError, match="take one scorer of one version"):
        load_scorer(f"archive:{tmp_path}/a")
    old, new = (f"archive:{tmp_path}/a#moderation omni-latest (version {version} answered by omni-{year})" for year in (2024, 2026))
    check_spec(old, ["en"])
    assert [load_scorer(spec).score(["ab"], "en")[0] for spec in (old, new)] == [0.1, 0.05]
    assert load_scorer(old).version != load_scorer(new).version, "a store keeps them apart"


def test_a_service_like_perspective_with_its_own_header_and_languages(tmp_path, monkeypatch):
    monkeypatch.setenv("PERSPECTIVE_API_KEY", KEY)
    with Served(lambda body: {"modelVersion": "T7", "attributeScores": {"TOXICITY": {"summaryScore": {"value": 0.25}}}}) as server:
        store, url = ScoreStore(tmp_path / "s.sqlite"), server.address("/v1/score")
        scorer = load_scorer(f"perspective:{url}#header=X-My-Key,languages=am+en")
        assert store.score(scorer, ["ሰላም"], "am").tolist() == [0.25]
        _, headers, body = server.seen[0]
        assert headers["x-my-key"] == KEY and "x-goog-api-key" not in headers and body["languages"] == ["am"]
        assert store.table()["version"].tolist() == [f"v1alpha1 TOXICITY {url} answered by T7"]
        with pytest.raises(InputError, match="scorer perspective does not support de; it supports am en. Who has learnt it: de:"):
            scorer.score(["hallo"], "de")
        assert len(server.seen) == 1, "refused before a request"
        bearer = load_scorer(f"perspective:{url}#header=Authorization")
        assert bearer._service._headers == {"Authorization": f"Bearer {KEY}"} and KEY not in repr(vars(bearer))
    for spec, message in [("perspective:https://h/x#header=X Key", "is not the name of a header"),
                          ("perspective:default#languages=am", "only those of another"),
                          ("perspective:https://h/x#languages=klingon", "does not support klingon")]:
        with pytest.raises(InputError, match=message):
            check_spec(spec, ["en"])


def likely(word, **others):
    return {"token": word, "logprob": 0.0, "top_logprobs": [{"token": t, "logprob": math.log(p)} for t, p in others.items()]}


def chat(*tokens):
    return {"model": "served-1", "choices": [{"message": {"content": "".join(t["token"] for t in tokens)}, "logprobs": {"content": list(tokens)}}]}


SAFETY = (likely("Safety"), likely(":"))
ANSWERS = {
    "one": (chat(*SAFETY, likely(" Unsafe", **{" Unsafe": 0.6, " Safe": 0.2, " Cont": 0.1, " none": 0.1})), 0.6 / 0.9),
    "a later label does not count": (chat(*SAFETY, likely(" Safe", **{" Safe": 0.9, " Unsafe": 0.1}), likely(" Unsafe", **{" Unsafe": 1.0})), 0.1),
    "a blank before the label": (chat(*SAFETY, likely(" ", **{" ": 1.0}), likely("Unsafe", Unsafe=0.7, Safe=0.3)), 0.7),
    "thinking first": (chat(likely("\n\n"), *SAFETY, likely(" Controversial", **{" Controversial": 1.0})), 0.0),
    "labels are not likely": (chat(*SAFETY, likely(" I", **{" I": 0.6, " Safe": 0.4})), None),
    "another answer": (chat(likely("I"), likely(" Unsafe", **{" Unsafe": 1.0})), None),
}


def test_a_served_guard_is_read_from_its_logprobs(tmp_path):
    with Served(lambda body: ANSWERS[body["messages"][0]["content"]][0]) as server:
        store, scorer = ScoreStore(tmp_path / "s.sqlite"), load_scorer(f"openai:{server.address(CHAT)}#Qwen/Qwen3Guard-Gen-4B")
        found = store.score(scorer, list(ANSWERS), "ko")
        np.testing.assert_allclose(found, [np.nan if p is None else p for _, p in ANSWERS.values()])
        body = server.seen[0][2]
        assert body["logprobs"] is True and body["top_logprobs"] == 20 and body["temperature"] == 0 and len(body["messages"]) == 1
        assert scorer.missing == {"an answer that is no rating": 2} and store.table()["reason"].isna().all()
        n = len(server.seen)
        store.score(scorer, list(ANSWERS), "ko")
        assert len(server.seen) == n + 2, "what was no rating is asked again, and nothing else"
        with pytest.raises(InputError, match="does not support am.*Who has learnt it: am: classifier"):
            scorer.score(["a"], "am")
        assert len(server.seen) == n + 2, "refused before a request"


def test_a_server_without_logprobs(tmp_path):
    with Served(lambda body: {"choices": [{"message": {"content": "Safety: Safe"}, "logprobs": None}]}) as server:
        with pytest.raises(InputError, match="the server gives no logprobs"):
            load_scorer(f"openai:{server.address(CHAT)}#Qwen/Qwen3Guard-Gen-4B").score(["a"], "en")


def test_any_model_with_a_card_of_its_own(tmp_path):
    card = {"messages": [{"role": "user", "content": "Rude? {text}"}], "answer": "", "labels": ["yes", "no"], "toxic": ["yes"], "languages": ["en"]}
    (tmp_path / "c.json").write_text(json.dumps(card))
    with Served(lambda body: chat(likely("yes", yes=0.8, no=0.2))) as server:
        scorer = load_scorer(f"openai:{server.address(CHAT)}#my/model#{tmp_path}/c.json")
        np.testing.assert_allclose(scorer.score(["a {text}"], "en"), [0.8])
        assert server.seen[0][2]["messages"] == [{"role": "user", "content": "Rude? a {text}"}] and scorer.languages == {"en"}
        assert scorer.version != EndpointScorer(server.address(CHAT), "my/model").version


def test_polyguard_needs_the_words_of_its_card(tmp_path):
    spec = f"openai:http://h{CHAT}#ToxicityPrompts/PolyGuard-Qwen"
    with pytest.raises(InputError, match="give URL#ToxicityPrompts/PolyGuard-Qwen#README.md"):
        check_spec(spec, ["en"])
    (tmp_path / "README.md").write_text('SYSTEM_PROMPT = """Judge."""\nUSER_PROMPT = """H: {prompt} A: {response}"""')
    check_spec(f"{spec}#{tmp_path}/README.md", ["en"])
    assert load_scorer(f"{spec}#{tmp_path}/README.md")._card.messages[1]["content"] == "H: {text} A: "
    with pytest.raises(InputError, match="no such file"):
        check_spec(f"{spec}#{tmp_path}/none.md", ["en"])


def test_a_judge_without_a_rating_is_asked_again(tmp_path):
    say = {"text": "I would rather not."}
    with Served(lambda body: {"choices": [{"message": {"content": say["text"]}}]}) as server:
        store, judge = ScoreStore(tmp_path / "s.sqlite"), load_scorer(f"openai:{server.address(CHAT)}#tiny")
        assert np.isnan(store.score(judge, ["a"], "en")[0]) and store.table().empty and len(server.seen) == 1, "not at once, and not final"
        say["text"] = "40"
        assert store.score(judge, ["a"], "en").tolist() == [0.4]
    assert known_guard("Qwen/Qwen3Guard-Gen-8B").answer == "Safety:" and PerspectiveScorer.answered is None
