"""The fake server itself: sockets, pages, and what each request meets."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self

from eval.testing.fake_ollama import ollama_pages, openai_pages
from eval.testing.fake_ollama.answers import (
    ChatCall,
    find_fenced,
    join_prompt,
    score_overlap,
    tokenise,
    write_answer,
)
from eval.testing.fake_ollama.dialect import Answer, Dialect
from eval.testing.fake_ollama.ollama_pages import OllamaDialect
from eval.testing.fake_ollama.openai_pages import OpenAIDialect
from eval.testing.fake_ollama.scenarios import Scenario
from eval.testing.fake_ollama.store import BLOBS, CREATE, Store, read_body

Choice = Literal["A", "B", "TIE"]
_logger = logging.getLogger(__name__)


@dataclass
class FakeOllama:
    """A server inside a ``with`` statement: of one model, and perhaps others beside it."""

    score: Callable[[str, str], int] = score_overlap
    """(answer, reference) -> the score of a good answer."""
    prefer: Callable[[ChatCall], Choice] | None = None
    """Decides comparisons; None prefers the answer with the higher score."""
    scenario: Scenario | Callable[[ChatCall], Scenario] = "score"
    """What each request meets."""
    model: str = "llama3:latest"
    """The model that there is."""
    model_digest: str = "365c0bd3c000a25d28ddbf732fe1c6add414de7275464c4e4d1c3b5fcb5d8ad1"
    version: str = "0.33.0"
    others: Mapping[str, Callable[[str, str], int]] = field(default_factory=dict)
    """Further models by tag, each with its own ``score``; their digests are the sha256 of their tags."""
    context_length: int = 8192
    """Of the models."""
    capabilities: tuple[str, ...] = ("completion",)
    seconds: float = 0.0
    """How long an answer takes; its tokens are spread over the second half of it."""
    slow_seconds: float = 30.0
    """How long ``slow`` and ``stall`` are silent."""
    load_seconds: float = 0.0
    """How long loading the model takes."""
    host: str = "127.0.0.1"
    port: int = 0
    """0 takes a free one."""
    calls: list[ChatCall] = field(default_factory=list, init=False)
    """The requests for an answer so far, in the order of arrival."""
    loads: list[dict[str, Any]] = field(default_factory=list, init=False)
    """The requests that only load the model."""
    store: Store = field(default_factory=Store, init=False)
    """The models that clients made."""
    closing: threading.Event = field(default_factory=threading.Event, init=False, repr=False)
    """Set when the server stops, so that no answer outlives it."""
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _seen: Counter[str] = field(default_factory=Counter, init=False, repr=False)

    def __enter__(self) -> Self:
        """Start serving."""
        self.closing.clear()
        self._server = _Server((self.host, self.port), _Handler)
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
        self._server.hang_up()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """The address to give a client; that of the OpenAI-compatible interface ends in /v1 besides."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    @property
    def questions(self) -> list[ChatCall]:
        """The requests in which something is to be judged."""
        return [call for call in self.calls if call.texts]

    @property
    def digests(self) -> dict[str, str]:
        """All models with their digests."""
        return {self.model: self.model_digest, **{tag: sha256(tag.encode()).hexdigest() for tag in self.others}}

    def load(self, body: dict[str, Any]) -> None:
        """Load a model, which takes its time once."""
        with self._lock:
            is_new = read_tag(body) not in map(read_tag, self.loads)
            self.loads.append(body)
            if is_new:
                self.closing.wait(self.load_seconds)

    def list_running(self) -> list[dict[str, Any]]:
        """What /api/ps lists: the model that was loaded last."""
        if not self.loads:
            return []
        window = OllamaDialect().choose_window(self.loads[-1], self.context_length)
        window //= 2 if self.scenario == "small_window" else 1
        tag = read_tag(self.loads[-1])
        return [ollama_pages.list_running(tag, self.digests[tag], window=window)]

    def answer(self, body: dict[str, Any], *, window: int) -> Answer:
        """Note a request and choose what it meets."""
        prompt = join_prompt(body)
        with self._lock:
            call = ChatCall(
                index=len(self.calls),
                body=body,
                texts=find_fenced(prompt),
                n_tokens=1 + len(prompt.encode("utf-8", errors="replace")) // 4,
                n_seen=self._seen[prompt],
            )
            self._seen[prompt] += 1
            self.calls.append(call)
        scenario = self.scenario if isinstance(self.scenario, str) else self.scenario(call)
        if scenario == "digest_moves":
            self.model_digest = sha256(self.model_digest.encode()).hexdigest()
        verdict = self._choose(call, scenario) if call.is_comparison else self._score(call, scenario)
        spoken = tokenise(write_answer(verdict, scenario), scenario)
        return Answer(call, scenario, spoken, read_tag(body), window, self.seconds)

    def _choose_scorer(self, call: ChatCall) -> Callable[[str, str], int]:
        return self.others.get(read_tag(call.body), self.score)

    def _score(self, call: ChatCall, scenario: Scenario) -> int:
        score = self._choose_scorer(call)(call.answer, call.reference)
        return (score + 7 * call.n_seen) % 101 if scenario == "drifting" else score

    def _choose(self, call: ChatCall, scenario: Scenario) -> Choice:
        if scenario == "first_slot":
            return "A"
        if self.prefer is not None:
            return self.prefer(call)
        scorer = self._choose_scorer(call)
        first, second = (scorer(call.texts[f"ANSWER {slot}"], call.reference) for slot in "AB")
        return "TIE" if first == second else "A" if first > second else "B"


def read_tag(body: Mapping[str, Any]) -> str:
    """The model that a request names, with its tag."""
    name = str(body.get("model", ""))
    return name if ":" in name else f"{name}:latest"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    fake: FakeOllama

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._open: set[Any] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection: it outlives the request that it began with."""
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection."""
        self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """End all connections, as a server that stops does."""
        for request in list(self._open):
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

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
        pages: dict[str, dict[str, Any]] = {
            "/api/version": {"version": fake.version},
            "/api/tags": {"models": [ollama_pages.list_model(*one) for one in fake.digests.items()]},
            "/api/ps": {"models": fake.list_running()},
            "/v1/models": openai_pages.list_models(fake.digests),
        }
        if self.path in pages:
            self._send_json(200, pages[self.path])
        else:
            self._send(404, b"404 page not found", kind="text/plain")

    def do_HEAD(self) -> None:
        known = self.path.removeprefix(BLOBS) in self.server.fake.store.blobs
        self._send(200 if known else 404, b"", kind="text/plain")

    def do_POST(self) -> None:
        fake = self.server.fake
        content = read_body(self.rfile, self.headers)
        if self.path.startswith(BLOBS):
            status, problem = fake.store.put(self.path.removeprefix(BLOBS), content)
            self._send_json(status, {"error": problem} if problem else {})
            return
        try:
            body = json.loads(content)
        except ValueError as error:
            self._send_json(400, {"error": str(error)})
            return
        dialect: Dialect = OpenAIDialect() if self.path == openai_pages.CHAT else OllamaDialect()
        if self.path == CREATE:
            lines = [json.dumps(line).encode() + b"\n" for line in fake.store.create(read_tag(body), body)]
            self._send(200, b"".join(lines), kind=OllamaDialect.content_type)
        elif self.path == ollama_pages.SHOW and read_tag(body) in fake.store.models:
            self._send_json(200, fake.store.show(read_tag(body)))
        elif self.path not in (ollama_pages.SHOW, ollama_pages.CHAT, openai_pages.CHAT):
            self._send(404, b"404 page not found", kind="text/plain")
        elif read_tag(body) not in fake.digests:
            self._send_json(
                404, dialect.build_error(f'model "{body.get("model", "")}" not found, try pulling it first')
            )
        elif self.path == ollama_pages.SHOW:
            self._send_json(200, ollama_pages.show_model(fake.context_length, fake.capabilities))
        elif self.path == ollama_pages.CHAT and not body.get("messages"):
            fake.load(body)
            self._send_json(200, ollama_pages.answer_load(read_tag(body)))
        else:
            self._answer_chat(body, dialect)

    def _answer_chat(self, body: dict[str, Any], dialect: Dialect) -> None:
        fake, started = self.server.fake, time.monotonic()
        answer = fake.answer(body, window=dialect.choose_window(body, fake.context_length))
        scenario = answer.scenario
        fake.closing.wait(fake.slow_seconds if scenario == "slow" else fake.seconds / 2)
        refusal = dialect.find_refusal(answer, fake.capabilities)
        if scenario == "hang_up":
            self.close_connection = True
        elif scenario == "proxy_page":
            self._send(502, b"<html><body>Bad Gateway</body></html>", kind="text/html")
        elif refusal is not None:
            self._send_json(refusal[0], dialect.build_error(refusal[1]))
        elif body.get("stream", dialect.streams):
            self._send_stream(answer, dialect, started=started)
        else:
            fake.closing.wait(started + fake.seconds - time.monotonic())
            self._send_json(200, dialect.build_whole(answer))

    def _send_stream(self, answer: Answer, dialect: Dialect, *, started: float) -> None:
        fake, n = self.server.fake, len(answer.tokens) + 1
        self.send_response(200)
        self.send_header("Content-Type", dialect.content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for n_sent, line in enumerate(dialect.stream_lines(answer)):
            # By the clock, so that the errors of many short waits do not add up.
            due = started + fake.seconds * (1 + min(1.0, (n_sent + 1) / n)) / 2
            if (left := due - time.monotonic()) > 0:
                fake.closing.wait(left)
            if fake.closing.is_set() or (answer.scenario == "drop" and n_sent == 1):
                self.wfile.flush()
                self.close_connection = True
                return
            if answer.scenario == "stall" and n_sent == 2:
                fake.closing.wait(fake.slow_seconds)
            if answer.scenario == "trickle":
                fake.closing.wait(0.01)
            if answer.scenario == "midstream_error" and n_sent == 1:
                self._send_chunk(
                    dialect.build_error_line("an error was encountered while running the model: CUDA error")
                )
                break
            self._send_chunk(dialect.build_noise() if answer.scenario == "not_json" else line)
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def _send_chunk(self, line: bytes) -> None:
        self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        self.wfile.flush()

    def _send_json(self, status: int, value: dict[str, Any]) -> None:
        self._send(status, json.dumps(value).encode(), kind="application/json; charset=utf-8")

    def _send(self, status: int, content: bytes, *, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()
