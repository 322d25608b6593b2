"""The server around the application: socket, signals, draining."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from flows.serving.app import build_app
from flows.serving.config import ServeConfig
from flows.serving.served import Served
from gptcore.errors import ConfigError


class Server:
    """A model behind an open socket.

    Raises:
        ConfigError: the address cannot be listened on, or as of ``build_app``.
    """

    def __init__(self, served: Served, config: ServeConfig) -> None:
        app = build_app(served, config)
        is_ipv6 = ":" in config.host
        try:
            self._listener = socket.create_server(
                (config.host, config.port), family=socket.AF_INET6 if is_ipv6 else socket.AF_INET, backlog=512
            )
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {config.host}:{config.port} ({error.strerror or error}); choose another --port"
            ) from error
        host = f"[{config.host}]" if is_ipv6 else config.host
        self.url = f"http://{host}:{self._listener.getsockname()[1]}"
        """The address for clients; that of OpenAI's ends in /v1 besides."""
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=config.drain_seconds,
            )
        )

    def run(self) -> None:
        """Serve until ``stop``, SIGINT or SIGTERM; what was begun is then finished, for ``drain_seconds`` at most."""
        with self._listener, _ending_well():
            self._server.run(sockets=[self._listener])

    def stop(self) -> None:
        """End ``run``; may be called from another thread."""
        self._server.should_exit = True


@contextmanager
def _ending_well() -> Iterator[None]:
    """Let the signals that uvicorn raises again once it has stopped end nothing: to stop was what they asked."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
