"""An Ollama server without a model: the real protocol over a real socket, scripted answers.

It answers /api/version, /api/tags, /api/ps, /api/show and /api/chat (streamed and whole) in the server's forms, refuses
what the server refuses (unknown models, prompts longer than the window with ``shift`` off, ``think`` on models that
cannot) and misbehaves on demand, one ``Scenario`` per request. Start it by hand for a try of the judge without a model:

    python -m eval.testing.fake_ollama --port 11434

API: https://docs.ollama.com/api
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self, get_args

Scenario = Literal[
    "score",
    "missing_model",
    "busy",
    "server_error",
    "context_refused",
    "slow",
    "trickle",
    "hang_up",
    "drop",
    "midstream_error",
    "not_done",
    "not_json",
    "length",
    "truncated",
    "prose",
    "text_score",
    "fraction_score",
    "above_range",
    "below_range",
    "true_score",
    "null_score",
    "sorted_keys",
    "reversed_keys",
    "double_key",
    "lone_surrogate",
    "empty",
    "whitespace",
    "thinking_only",
]
"""What a request meets. ``score`` is a good answer; ``slow`` says nothing for a while, ``trickle`` never ends,
``hang_up`` closes before and ``drop`` inside the answer, ``truncated`` cuts the prompt without a word, as servers do
that do not know ``shift``."""

_REFUSALS: dict[Scenario, tuple[int, str]] = {
    "busy": (503, "server busy, please try again.  maximum pending requests exceeded"),
    "server_error": (500, "llama runner process has terminated: exit status 2"),
    "context_refused": (
        400,
        "the prompt is longer than the context length currently available to the model; increase num_ctx",
    ),
}
_BAD_SCORES: dict[Scenario, Any] = {
    "text_score": "85",
    "fraction_score": 85.0,
    "above_range": 850,
    "below_range": -1,
    "true_score": True,
    "null_score": None,
}
_ANSWER = re.compile(r"<<ANSWER (\w+)>>\n(.*?)\n<<END \1>>", re.DOTALL)
_REFERENCE = re.compile(r"<<REFERENCE (\w+)>>\n(.*?)\n<<END \1>>", re.DOTALL)
_NUM_KEEP = 4
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChatCall:
    """One request to /api/chat, as it came."""

    index: int
    """Counted from 0 in the order of arrival."""
    body: dict[str, Any]
    """The JSON."""
    answer: str
    """The judged text between its fences; empty if there are none."""
    reference: str
    """The reference between its fences; empty if there are none."""
    n_tokens: int
    """Of the prompt, at four bytes a token."""


def overlap_score(answer: str, reference: str) -> int:
    """A stand-in for a judge: 100 times the F1 of the two sets of words."""
    ours, theirs = set(answer.lower().split()), set(reference.lower().split())
    both = len(ours & theirs)
    return round(200 * both / (len(ours) + len(theirs))) if both else 0


@dataclass
class FakeOllama:
    """A server on a free port of 127.0.0.1 inside a ``with`` statement."""

    score: Callable[[str, str], int] = overlap_score
    """(answer, reference) -> the score of a good answer."""
    scenario: Scenario | Callable[[ChatCall], Scenario] = "score"
    """What each request meets."""
    model: str = "llama3:latest"
    """The only model there is."""
    model_digest: str = "365c0bd3c000a25d28ddbf732fe1c6add414de7275464c4e4d1c3b5fcb5d8ad1"
    version: str = "0.33.0"
    context_length: int = 8192
    """Of the model."""
    capabilities: tuple[str, ...] = ("completion",)
    seconds: float = 0.0
    """How long an answer takes."""
    slow_seconds: float = 30.0
    """How long ``slow`` is silent."""
    port: int = 0
    """0 takes a free one."""
    calls: list[ChatCall] = field(default_factory=list, init=False)
    """The requests to /api/chat so far."""
    closing: threading.Event = field(default_factory=threading.Event, init=False, repr=False)
    """Set when the server stops, so that no answer outlives it."""
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __enter__(self) -> Self:
        """Start serving."""
        self.closing.clear()
        self._server = _Server(("127.0.0.1", self.port), _Handler)
        self._server.fake = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop serving."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """The address to give a client."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def record(self, body: dict[str, Any]) -> tuple[ChatCall, Scenario]:
        """Note a request and choose what it meets."""
        prompt = "\n".join(str(message.get("content", "")) for message in body.get("messages", []))
        answer, reference = _ANSWER.search(prompt), _REFERENCE.search(prompt)
        with self._lock:
            call = ChatCall(
                index=len(self.calls),
                body=body,
                answer=answer[2] if answer else "",
                reference=reference[2] if reference else "",
                n_tokens=1 + len(prompt.encode("utf-8", errors="replace")) // 4,
            )
            self.calls.append(call)
        return call, self.scenario if isinstance(self.scenario, str) else self.scenario(call)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    fake: FakeOllama

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of the server."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        _logger.debug(format, *args)

    def do_GET(self) -> None:
        fake = self.server.fake
        known: dict[str, dict[str, Any]] = {
            "/api/version": {"version": fake.version},
            "/api/tags": {"models": [_listed(fake)]},
            "/api/ps": {"models": [{**_listed(fake), "context_length": fake.context_length, "size_vram": 0}]},
        }
        if self.path in known:
            self._whole(200, known[self.path])
        else:
            self._text(404, "404 page not found")

    def do_POST(self) -> None:
        fake = self.server.fake
        try:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        except ValueError as error:
            self._whole(400, {"error": str(error)})
            return
        name = str(body.get("model", ""))
        tag = name if ":" in name else f"{name}:latest"
        if self.path not in ("/api/show", "/api/chat"):
            self._text(404, "404 page not found")
        elif tag != fake.model:
            self._whole(404, {"error": f'model "{name}" not found, try pulling it first'})
        elif self.path == "/api/show":
            self._whole(200, _shown(fake))
        else:
            self._chat(body)

    def _chat(self, body: dict[str, Any]) -> None:
        fake = self.server.fake
        call, scenario = fake.record(body)
        fake.closing.wait(fake.slow_seconds if scenario == "slow" else fake.seconds)
        refusal = _refusal(fake, call, scenario)
        if scenario == "hang_up":
            self.close_connection = True
        elif refusal is not None:
            self._whole(refusal[0], {"error": refusal[1]})
        elif body.get("stream", True):
            self._stream(call, scenario)
        else:
            parts = list(_parts(fake, call, scenario))
            message = {
                "role": "assistant",
                **{key: "".join(part["message"].get(key, "") for part in parts) for key in ("content", "thinking")},
            }
            self._whole(200, {**parts[-1], "message": message})

    def _stream(self, call: ChatCall, scenario: Scenario) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for n_sent, part in enumerate(_parts(self.server.fake, call, scenario)):
            if scenario == "drop" and n_sent == 1:
                self.wfile.flush()
                self.close_connection = True
                return
            if scenario == "midstream_error" and n_sent == 1:
                part = {"error": "an error was encountered while running the model: CUDA error"}
            line = b"this is no JSON\n" if scenario == "not_json" else json.dumps(part).encode() + b"\n"
            self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
            self.wfile.flush()
            if "error" in part:
                break
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def _whole(self, status: int, value: dict[str, Any]) -> None:
        self._send(status, json.dumps(value).encode(), kind="application/json; charset=utf-8")

    def _text(self, status: int, text: str) -> None:
        self._send(status, text.encode(), kind="text/plain")

    def _send(self, status: int, content: bytes, *, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()


def _refusal(fake: FakeOllama, call: ChatCall, scenario: Scenario) -> tuple[int, str] | None:
    if scenario == "missing_model":
        return 404, f'model "{call.body["model"]}" not found, try pulling it first'
    if scenario in _REFUSALS:
        return _REFUSALS[scenario]
    if call.body.get("think") and "thinking" not in fake.capabilities:
        return 400, f'"{call.body["model"]}" does not support thinking'
    too_long = call.n_tokens > _window(fake, call)
    if too_long and call.body.get("shift") is False and scenario != "truncated":
        return _REFUSALS["context_refused"]
    return None


def _window(fake: FakeOllama, call: ChatCall) -> int:
    return min(int((call.body.get("options") or {}).get("num_ctx", 4096)), fake.context_length)


def _parts(fake: FakeOllama, call: ChatCall, scenario: Scenario) -> Iterator[dict[str, Any]]:
    """The lines of a streamed answer: its pieces, then one with the end mark and the counts."""
    head = {"model": fake.model, "created_at": datetime.now(UTC).isoformat()}
    while scenario == "trickle" and not fake.closing.wait(0.01):
        yield {**head, "message": {"role": "assistant", "content": " "}, "done": False}
    kind = "thinking" if scenario == "thinking_only" else "content"
    text = _text(fake, call, scenario)
    pieces = re.findall(r"\s*\S+|\s+", text)
    for piece in pieces:
        yield {**head, "message": {"role": "assistant", "content": "", kind: piece}, "done": False}
    window = _window(fake, call)
    cut = scenario == "truncated" or call.n_tokens > window
    end: dict[str, Any] = {
        "done": True,
        "done_reason": "length" if scenario == "length" else "stop",
        "total_duration": int(fake.seconds * 1e9) + 2_000_000,
        "load_duration": 1_000_000,
        "prompt_eval_count": window - (window - _NUM_KEEP) // 2 if cut else call.n_tokens,
        "prompt_eval_duration": 1_000_000,
        "eval_count": len(pieces),
        "eval_duration": int(fake.seconds * 1e9),
    }
    ending = {"done": False} if scenario == "not_done" else end
    yield {**head, "message": {"role": "assistant", "content": ""}, **ending}


def _text(fake: FakeOllama, call: ChatCall, scenario: Scenario) -> str:
    score: Any = _BAD_SCORES[scenario] if scenario in _BAD_SCORES else fake.score(call.answer, call.reference)
    rationale = "half of a pair: \ud83d" if scenario == "lone_surrogate" else "The words shared with the reference."
    output = {"rationale": rationale, "score": score}
    text = json.dumps(output, sort_keys=scenario == "sorted_keys")
    if scenario == "reversed_keys":
        return json.dumps({"score": score, "rationale": rationale})
    if scenario == "double_key":
        return text[:-1] + ', "score": 100}'
    if scenario == "length":
        return text[: len(text) // 2]
    if scenario == "prose":
        return f"Here is my verdict:\n{text}\nI hope this helps!"
    return {"empty": "", "whitespace": "\n" * 40}.get(scenario, text)


def _details() -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "8.0B",
        "quantization_level": "Q4_0",
    }


def _listed(fake: FakeOllama) -> dict[str, Any]:
    return {
        "name": fake.model,
        "model": fake.model,
        "modified_at": "2024-05-20T12:00:00Z",
        "size": 4661224676,
        "digest": fake.model_digest,
        "details": _details(),
    }


def _shown(fake: FakeOllama) -> dict[str, Any]:
    return {
        "template": "{{ .System }} {{ .Prompt }}",
        "parameters": 'stop "<|eot_id|>"',
        "details": _details(),
        "model_info": {"general.architecture": "llama", "llama.context_length": fake.context_length},
        "capabilities": list(fake.capabilities),
        "modified_at": "2024-05-20T12:00:00Z",
    }


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m eval.testing.fake_ollama", description=str(__doc__).split("\n")[0])
    parser.add_argument("--port", type=int, default=11434, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--model", default="llama3:latest", help="the model it has (default: %(default)s)")
    parser.add_argument("--scenario", choices=get_args(Scenario), default="score", help="what every request meets")
    parser.add_argument("--seconds", type=float, default=0.0, help="how long an answer takes (default: %(default)s)")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    fake = FakeOllama(port=chosen.port, model=chosen.model, scenario=chosen.scenario, seconds=chosen.seconds)
    with fake:
        _logger.info("a fake Ollama with %s answers at %s; Ctrl-C ends it", fake.model, fake.url)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            _logger.info("%d answers asked", len(fake.calls))


if __name__ == "__main__":
    main()
