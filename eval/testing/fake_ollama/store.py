"""Models that clients make on the fake server: blobs by their sha256, and the requests to /api/create."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import Message
from hashlib import sha256
from io import BufferedIOBase
from typing import Any, Final

BLOBS: Final = "/api/blobs/sha256:"
CREATE: Final = "/api/create"


@dataclass
class Store:
    """What was sent, in memory."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    """By their sha256 (hex)."""
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What was asked for, by the name with its tag."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def put(self, digest: str, content: bytes) -> tuple[int, str]:
        """Keep a blob: status and words."""
        if sha256(content).hexdigest() != digest:
            return 400, "digest mismatch"
        with self._lock:
            self.blobs[digest] = content
        return 201, ""

    def create(self, name: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Make a model, ``name`` with its tag, of blobs; refusals come inside the stream, with status 200."""
        files = body.get("files") or {}
        yield {"status": "parsing GGUF"}
        for file, digest in files.items():
            content = self.blobs.get(str(digest).removeprefix("sha256:"))
            if content is None or content[:4] != b"GGUF":
                yield {"error": f"blob {digest} not found" if content is None else f"{file} is no GGUF file"}
                return
        if not files:
            yield {"error": "neither 'from' or 'files' was specified"}
            return
        with self._lock:
            self.models[name] = body
        yield {"status": "writing manifest"}
        yield {"status": "success"}

    def show(self, name: str) -> dict[str, Any]:
        """What /api/show says of a model that was made."""
        body = self.models[name]
        lines = []
        for key, value in (body.get("parameters") or {}).items():
            lines += [f"{key} {one}" for one in (value if isinstance(value, list) else [value])]
        return {
            "template": body.get("template", ""),
            "parameters": "\n".join(lines),
            "details": {"format": "gguf"},
            "model_info": {},
            "capabilities": ["completion"],
        }


def read_body(stream: BufferedIOBase, headers: Message) -> bytes:
    """A request's body; a client that does not know its length sends it in chunks."""
    if headers.get("Transfer-Encoding", "").lower() != "chunked":
        return stream.read(int(headers.get("Content-Length", 0)))
    parts = []
    while size := int(stream.readline().split(b";")[0], 16):
        parts.append(stream.read(size))
        stream.readline()
    stream.readline()
    return b"".join(parts)
