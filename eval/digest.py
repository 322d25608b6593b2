"""Values -> digests: equal JSON values give equal text, and so equal sha256."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def to_canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces and ASCII escapes only, so that even a lone surrogate can be encoded."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any) -> str:
    """sha256, in hex, of a value's canonical JSON."""
    return hashlib.sha256(to_canonical_json(value).encode("ascii")).hexdigest()
