"""What becomes of a request to a Prefect server that is busy."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from flows.services import prefect_api
from flows.services.prefect_api import PrefectApi
from flows.services.processes import ServiceError


class Busy(ThreadingHTTPServer):
    """Says so many times that it is busy, then answers with nothing."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.n_busy, self.n_asked = 0, 0


class Handler(BaseHTTPRequestHandler):
    server: Busy

    def do_PATCH(self) -> None:
        self.server.n_asked += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204 if self.server.n_asked > self.server.n_busy else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        del code, size


@pytest.fixture
def server() -> Iterator[Busy]:
    with Busy() as busy:
        thread = threading.Thread(target=busy.serve_forever)
        thread.start()
        yield busy
        busy.shutdown()
        thread.join()


def test_a_busy_server_is_asked_again(server: Busy) -> None:
    server.n_busy = 2
    with PrefectApi(f"http://127.0.0.1:{server.server_port}") as api:
        api.pause_pool("gptworks", paused=False)
    assert server.n_asked == 3


def test_one_that_is_busy_for_good_is_told(server: Busy, monkeypatch: pytest.MonkeyPatch) -> None:
    server.n_busy = 10**9
    monkeypatch.setattr(prefect_api, "_SECONDS_BUSY", 0.6)
    with (
        PrefectApi(f"http://127.0.0.1:{server.server_port}") as api,
        pytest.raises(ServiceError, match="refuses PATCH /work_pools/gptworks: 503"),
    ):
        api.pause_pool("gptworks", paused=False)
    assert server.n_asked > 1
