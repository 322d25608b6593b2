"""Exact match: is the response the reference, apart from case, white space and the encoding of its characters?"""

from __future__ import annotations

import unicodedata


def normalise(text: str) -> str:
    """Unicode NFC, case folded, runs of white space one blank, none at the ends; nothing else is changed."""
    folded = unicodedata.normalize("NFC", text).casefold()
    # Folding can decompose again (U+1E9E, U+0130), so the composed form is taken of the result.
    return " ".join(unicodedata.normalize("NFC", folded).split())


def is_exact(response: str, reference: str) -> bool:
    """Whether both are the same after ``normalise``; an empty reference is matched by nothing."""
    wanted = normalise(reference)
    return bool(wanted) and normalise(response) == wanted
