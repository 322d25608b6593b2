"""No prompt is cut in silence: what is known before a request, and what the counted tokens say after it.

A server may cut a prompt that is too long from the front, to about half its window, with status 200: the rubric goes
first. A token is at least one byte, so a prompt shorter in bytes than the window cannot have been cut. A longer one is
believed only if the server counted enough tokens for its bytes, and not the number that is left after a cut.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from eval.judge.client import TEMPLATE_TOKENS, CallFailed, Message, Options

_MOST_BYTES_A_TOKEN: Final = 8
"""A prompt counted at fewer than one token for so many bytes has lost a part (English prose has about 4.5)."""
_NUM_KEEP: Final = 5
"""What Ollama keeps of the front when it cuts: four tokens and the one that begins a text."""


def count_prompt_bytes(messages: Iterable[Message]) -> int:
    """Length of a prompt in UTF-8, without what a chat template adds."""
    return sum(len(message["content"].encode("utf-8")) for message in messages)


def check_before(n_bytes: int, options: Options) -> None:
    """Raise CallFailed for a prompt that cannot fit the window."""
    if n_bytes > _MOST_BYTES_A_TOKEN * options.num_ctx:
        detail = f"a prompt of {n_bytes} bytes cannot fit num_ctx {options.num_ctx}; not sent"
        raise CallFailed("truncated", detail, transient=False)


def check_after(n_bytes: int, options: Options, *, counted: int | None) -> None:
    """Raise CallFailed unless a prompt of which the server ``counted`` so many tokens was read whole."""
    # Not asked of prompts that cannot have been cut: some servers count only the part that was not in their cache
    # (ollama 0.30.0, until its pull request 16428), which looks the same.
    if n_bytes + TEMPLATE_TOKENS + options.num_predict < options.num_ctx:
        return
    window = options.num_ctx
    half = window - (window - _NUM_KEEP) // 2
    if counted is None or counted * _MOST_BYTES_A_TOKEN <= n_bytes or abs(counted - half) <= 2:
        found = f"the server counted {counted} tokens for a prompt of {n_bytes} bytes in a window of {window}"
        raise CallFailed("truncated", f"{found}; raise num_ctx", transient=False)
