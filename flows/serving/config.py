"""How a model is served."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from gptcore.errors import ConfigError


@dataclass(frozen=True)
class ServeConfig:
    """Address, token and limits of the server."""

    host: str = "127.0.0.1"
    """The address to listen on."""
    port: int = 8080
    """0 chooses a free one."""
    token: str | None = field(default=None, repr=False)
    """Bearer token that clients must send; None requires none."""
    slots: int = 8
    """Requests that are answered at the same time."""
    max_queue: int = 64
    """Requests that may wait for a slot; more are refused with 503."""
    max_body_bytes: int = 1_000_000
    """The largest body of a request."""
    max_choices: int = 16
    """The most answers to one request: prompts times ``n``."""
    prefill_chunk: int = 256
    """Tokens of a prompt that are read between two steps of the answers."""
    exact: bool = False
    """Whether an answer is the same to the last bit whatever else is being answered."""
    drain_seconds: int = 30
    """Seconds in which running answers are finished after a request to stop."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        for name in ("slots", "max_body_bytes", "max_choices", "prefill_chunk"):
            if getattr(self, name) < 1:
                raise ConfigError(f"expected {name} of at least 1, got {getattr(self, name)}")
        for name in ("max_queue", "drain_seconds"):
            if getattr(self, name) < 0:
                raise ConfigError(f"expected {name} of 0 or more, got {getattr(self, name)}")
        if not 0 <= self.port < 65536:
            raise ConfigError(f"expected port from 0 to 65535, got {self.port}")
        if self.token is not None and (
            not self.token or not self.token.isascii() or self.token.split() != [self.token]
        ):
            raise ConfigError("expected token of ASCII characters without blanks, at least one")

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
