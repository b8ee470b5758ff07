"""A server on this machine that answers like the documented Perspective API, bad days included.

    with PerspectiveServer(faults={"429": 0.05, "500": 0.02, "hang": 0.01, "cut": 0.01}) as server:
        PerspectiveScorer("a-key", server.url, qps=100).score(texts, "en")

Which request meets which fault follows from its text and from how often that was asked for, so a run can be repeated.
"""
import asyncio
import hashlib
import json
import threading
import time
from collections import Counter

LANGUAGES = set("ar zh cs nl en fr de hi id it ja ko pl pt ru es sv".split())
ATTRIBUTES = {"TOXICITY", "SEVERE_TOXICITY", "IDENTITY_ATTACK", "INSULT", "PROFANITY", "THREAT"}
KEY = "AIza-not-a-real-key-0123456789"


def uniform(*parts) -> float:
    "A number in [0, 1) that follows from its arguments"
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:6], "big") / 2**48


def true_score(text: str, attribute: str = "TOXICITY", lang: str = "en") -> float:
    "The score that the server gives"
    return round(uniform(text, attribute, lang), 6)


def error(code: int, message: str, status: str, **detail):
    "An error as Google's services write it"
    return code, {"error": {"code": code, "message": message, "status": status, "details": [detail] if detail else []}}


def most_in_a_second(times: list[float]) -> int:
    "Of times in order, the most that lie within one second"
    first = most = 0
    for last, t in enumerate(times):
        while times[first] <= t - 1:
            first += 1
        most = max(most, last - first + 1)
    return most


class PerspectiveServer:
    "Runs in a thread while it is a context; `log` holds (seconds, text, outcome) of every request"

    def __init__(self, faults=None, status=None, tamper=None, headers=""):
        self.faults, self.status, self.tamper, self.headers = faults or {}, status, tamper, headers  # status: of every answer
        self.log, self.bodies, self.asked, self.flying, self.most_flying, self.lag = [], [], Counter(), 0, 0, 0.0

    def __enter__(self):
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True)
        self._thread.start()
        started.wait()
        return self

    def __exit__(self, *exc):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1alpha1/comments:analyze"

    def outcomes(self) -> Counter:
        return Counter(outcome for *_, outcome in self.log)

    def answers(self) -> Counter:
        "How often each text was given a final answer"
        return Counter(text for _, text, outcome in self.log if outcome in ("200", "400"))

    def most_in_a_second(self) -> int:
        return most_in_a_second([t for t, *_ in self.log])

    def rate(self) -> float:
        "Requests a second from the first to the last"
        return (len(self.log) - 1) / (self.log[-1][0] - self.log[0][0])

    async def _serve(self, started):
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=1000)
        self.port = server.sockets[0].getsockname()[1]
        watch = asyncio.create_task(self._watch())
        started.set()
        await self._stop.wait()
        watch.cancel()
        server.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _watch(self):
        "How late this server is at its worst: requests that came in one after the other are then seen at once"
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.005)
            self.lag = max(self.lag, time.monotonic() - before - 0.005)

    async def _connection(self, reader, writer):
        try:
            while True:
                first, *head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head if line)}
                body = json.loads(await reader.readexactly(int(headers["content-length"])))
                self.flying += 1
                self.most_flying = max(self.most_flying, self.flying)
                try:
                    if not await self._answer(first, headers, body, writer):
                        return
                finally:
                    self.flying -= 1
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(self, first, headers, body, writer) -> bool:
        "Answer one request; False when the connection is to be closed"
        text = body.get("comment", {}).get("text", "")
        self.asked[text] += 1
        fault, u = None, uniform("fault", text, self.asked[text])
        for name, share in self.faults.items():
            fault = fault or (name if 0 <= u < share else None)
            u -= share
        code, found = self._judge(first, headers, body)
        if fault == "429":
            code, found = error(429, "Quota exceeded for quota metric 'Analysis requests (AnalyzeComment)'", "RESOURCE_EXHAUSTED")
        if fault == "500":
            code, found = error(500, "Internal error encountered.", "INTERNAL")
        self.log.append((time.monotonic(), text, fault or str(code)))
        self.bodies.append(body)
        if fault == "hang":
            await asyncio.Event().wait()
        content = json.dumps(found).encode()
        if fault == "nonsense":
            content = b"<html>a proxy's opinion</html>"
        answer = f"HTTP/1.1 {code} X\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n{self.headers}\r\n".encode() + content
        if fault == "cut":
            writer.write(answer[:int(uniform("where", text) * len(answer))])
            return False
        writer.write(answer)
        return True

    def _judge(self, first, headers, body):
        "What the API would say"
        text, languages, wanted = body.get("comment", {}).get("text", ""), body.get("languages", []), body.get("requestedAttributes", {})
        if self.status:
            return error(self.status, f"This is over, {headers.get('x-goog-api-key', '')}.", "FAILED")
        if not first.startswith("POST /v1alpha1/comments:analyze"):
            return error(404, "Not found", "NOT_FOUND")
        if "x-goog-api-key" not in headers:
            return error(403, "The request is missing a valid API key.", "PERMISSION_DENIED")
        if headers["x-goog-api-key"] != KEY:
            return error(400, f"API key not valid: {headers['x-goog-api-key']}", "INVALID_ARGUMENT", reason="API_KEY_INVALID")
        if not text:
            return error(400, "Comment must be non-empty.", "INVALID_ARGUMENT", errorType="COMMENT_EMPTY")
        if len(text.encode("utf-8", "surrogatepass")) > 20480:
            return error(400, "Comment text too long.", "INVALID_ARGUMENT", errorType="COMMENT_TOO_LONG")
        for attribute in wanted:
            if attribute not in ATTRIBUTES:
                return error(400, f"Unknown requested attribute: {attribute}", "INVALID_ARGUMENT", errorType="INVALID_REQUEST")
            if not set(languages) <= LANGUAGES:
                return error(400, f"Attribute {attribute} does not support request languages: {', '.join(languages)}", "INVALID_ARGUMENT",
                             errorType="LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE",
                             languageNotSupportedByAttributeError={"requestedLanguages": languages, "attribute": attribute})
        scores = {a: {"summaryScore": {"value": true_score(text, a, languages[0]), "type": "PROBABILITY"}} for a in wanted}
        found = {"attributeScores": scores, "languages": languages, "detectedLanguages": languages}
        return 200, self.tamper(found) if self.tamper else found
