"""Text out of tokens, piece by piece: whole characters only, and nothing that may yet turn out to be a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from gptcore.tokenizer import Tokenizer


class TextStream:
    """The text of one answer as its tokens come.

    A token may end inside a character, and a stop string may begin and end inside tokens: what cannot be shown yet is
    held back until the next tokens decide. Of several stop strings the one that is complete first ends the text.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        """Begin an answer that ends before the first of ``stops``, none of them empty."""
        self._tokenizer, self._stops = tokenizer, tuple(stops)
        self._characters = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self.text = ""
        """What was shown so far."""
        self.stopped = False
        """Whether a stop string has come."""

    def push(self, token: int) -> str:
        """Take up a token; the text that can be shown now."""
        self._held += self._characters.decode(self._tokenizer.token_bytes(token))
        return self._release(self._find_held())

    def finish(self) -> str:
        """End the answer; what was held back is not a stop string then."""
        if self.stopped:
            return ""
        self._held += self._characters.decode(b"", final=True)
        return self._release(len(self._held))

    def _release(self, end: int) -> str:
        found = [(place + len(stop), place) for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if found:  # the one that is complete first, so that it does not matter where tokens end
            self.stopped, end = True, min(found)[1]
        shown, self._held = self._held[:end], "" if self.stopped else self._held[end:]
        self.text += shown
        return shown

    def _find_held(self) -> int:
        """Where the longest end of the held text begins that may be the beginning of a stop string."""
        longest = max(map(len, self._stops), default=0)
        for start in range(max(0, len(self._held) - longest + 1), len(self._held)):
            if any(stop.startswith(self._held[start:]) for stop in self._stops):
                return start
        return len(self._held)
