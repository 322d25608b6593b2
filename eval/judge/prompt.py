"""The judge's prompt: rubric files, texts made harmless, fences that the answer's author cannot guess.

Judged text is data. Before it enters the prompt, whatever a chat template, a tokenizer or our own fences would read as
structure is replaced by look-alikes, and it is put between markers with a nonce. Templates are filled in one pass, so
nothing inside an answer is expanded again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from string import Template
from typing import Final, Literal

from eval.digest import digest
from eval.judge.client import Message
from eval.types import Sample

CUT_MARK: Final = " [cut]"
"""Ends an answer that was longer than the judge is shown."""

_LINE_BREAKS = re.compile("\r\n|[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_INVISIBLE = re.compile(
    # Control characters, zero-width and bidirectional marks, tag characters, the byte order mark.
    "[\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\xad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff"
    "\U000e0000-\U000e007f]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_MARKERS: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    # <|eot_id|> and the like, also half of one, and with the wide bars of DeepSeek
    (re.compile(r"<(?=[|\uff5c])"), "\u2039"),
    (re.compile(r"(?<=[|\uff5c])>"), "\u203a"),
    # our own fences, and <<SYS>>
    (re.compile(r"<<(?=\s*(?:/\s*)?(?:INSTRUCTION|INPUT|REFERENCE|ANSWER|END|SYS)\b)", re.IGNORECASE), "\u2039\u2039"),
    # [INST] and [/INST], and what else Mistral and GLM put between brackets
    (
        re.compile(
            r"\[(?=\s*(?:/\s*)?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|THINK|gMASK)\s*\])",
            re.IGNORECASE,
        ),
        "\u27e6",
    ),
    # sentence, thinking, turn and tool tags
    (
        re.compile(
            r"<(?=/?(?:s|unk|pad|bos|eos|sop|think|thinking|start_of_turn|end_of_turn|tool_call|tool_response)>)",
            re.IGNORECASE,
        ),
        "\u2039",
    ),
    # a role at the start of a line
    (re.compile(r"(?m)^([ \t>*#]*(?:system|user|assistant|human)[ \t*]*):", re.IGNORECASE), "\\1\ua789"),
)


@dataclass(frozen=True)
class CleanText:
    """A text that holds no structure of its own."""

    text: str
    n_changed: int
    """Markers replaced and invisible characters removed; line breaks made uniform do not count."""


def neutralise(text: str) -> CleanText:
    """Replace control tokens, role markers and fences by look-alikes, and remove what cannot be seen.

    Applying it again changes nothing.
    """
    text = _LINE_BREAKS.sub("\n", text)
    # Invisible characters go first: without them the halves of a marker may come together.
    text, n_changed = _INVISIBLE.subn("", text)
    text, n_lone = _SURROGATE.subn("\ufffd", text)
    n_changed += n_lone
    for pattern, replacement in _MARKERS:
        text, n = pattern.subn(replacement, text)
        n_changed += n
    return CleanText(text, n_changed)


def shorten(text: str, *, max_bytes: int) -> str:
    """The text, or its first part with ``[cut]`` if it takes more than ``max_bytes`` in UTF-8."""
    encoded = text.encode("utf-8")
    if len(encoded) <= max_bytes:
        return text
    return encoded[: max(0, max_bytes - len(CUT_MARK))].decode("utf-8", errors="ignore") + CUT_MARK


@dataclass(frozen=True)
class Prompts:
    """The templates of a judge, with ``$name`` slots."""

    system: str
    """The rubric; no slots."""
    user: str
    """Slots: nonce, instruction, input, reference, and the answers (``answer``, or ``answer_a`` and ``answer_b``)."""
    repair: str
    """What is said, once, after an output that could not be read; no slots."""

    @cached_property
    def digest(self) -> str:
        """sha256 over the three texts."""
        return digest([self.system, self.user, self.repair])


def load_prompts(mode: Literal["pointwise", "pairwise"]) -> Prompts:
    """The templates that come with the package, from ``eval/rubrics``."""
    folder = files("eval").joinpath("rubrics")
    system, user, repair = (
        folder.joinpath(f"{mode}_{part}.md").read_text("utf-8").strip() for part in ("system", "user", "repair")
    )
    return Prompts(system, user, repair)


@dataclass(frozen=True)
class RenderedPrompt:
    """The first request about one item."""

    messages: tuple[Message, ...]
    item: str
    """sha256 of the messages: what the question is."""
    flags: tuple[str, ...]
    """``neutralised`` and ``cut``, where they apply."""


def render(prompts: Prompts, *, sample: Sample, answers: Mapping[str, str], max_answer_bytes: int) -> RenderedPrompt:
    """The messages that ask for a verdict on ``answers`` (slot -> text), the same each time for the same texts."""
    texts = {"instruction": sample.instruction, "input": sample.input, "reference": sample.reference, **answers}
    cleaned = {name: neutralise(text) for name, text in texts.items()}
    whole = {name: text.text for name, text in cleaned.items()}
    slots = {**whole, **{name: shorten(whole[name], max_bytes=max_answer_bytes) for name in answers}}
    flags = [
        name
        for name, applies in (
            ("neutralised", any(text.n_changed for text in cleaned.values())),
            ("cut", slots != whole),
        )
        if applies
    ]
    nonce = hashlib.sha256((prompts.digest + digest(slots)).encode("ascii")).hexdigest()[:8]
    # One pass: what stands in an answer is not expanded again.
    user = Template(prompts.user).substitute(slots, nonce=nonce)
    messages: tuple[Message, ...] = (
        {"role": "system", "content": prompts.system},
        {"role": "user", "content": user},
    )
    return RenderedPrompt(messages, digest(list(messages)), tuple(flags))


def build_repair(prompts: Prompts, *, first: tuple[Message, ...], output: str) -> tuple[Message, ...]:
    """The one further request after an output that could not be read."""
    shown = shorten(neutralise(output).text, max_bytes=400) or "(nothing)"
    return (*first, {"role": "assistant", "content": shown}, {"role": "user", "content": prompts.repair})
