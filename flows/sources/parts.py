"""Parts of the data: the kinds of rows that sources give, preparation splits, commands take and stages ask for.

A part is a value in one table. What reads rows goes through the table and names no part, so that a further one is a
registration and nothing else::

    register_part(Part("pairs", "--pairs", "pairs of texts", keys=("first", "second", "label"), ...))
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gptcore.components import load_components
from gptcore.config import nearest
from gptcore.errors import ConfigError

CORPUS = "corpus"
"""What texts without columns are called where parts are named; no part has this name."""
_TAKEN = frozenset(
    {CORPUS, "metrics", "parts", "texts", "tokenizer", "tokenizer_digest", "tokens", "vocab_size"},
)
"""Names of other things in a folder of prepared data and among its facts."""


@dataclass(frozen=True)
class Part:
    """One kind of rows.

    Raises:
        ConfigError: a name, an option or a column cannot be.
    """

    name: str
    """Of its folder in the prepared data, its facts and its lines in the ledger; what a stage asks for."""
    option: str
    """The command-line option that gives its file, as in ``--labelled``."""
    title: str
    """What people call it, as in ``labelled rows``."""
    keys: tuple[str, ...]
    """Its columns, in the order in which they are written."""
    identity: tuple[str, ...]
    """The columns that make two rows equal."""
    content: tuple[str, ...]
    """The columns that make two rows nearly equal, and whose texts a base model may be trained on."""
    optional: tuple[str, ...] = ()
    """The columns that a row may lack; they are then empty."""
    label: str = ""
    """The column whose values are classes, if there is one: they are listed, and all must be seen in training."""

    def __post_init__(self) -> None:
        """Refuse what would be found out only where it is used."""
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name) or self.name in _TAKEN:
            raise ConfigError(
                f"a part is named {self.name!r}; expected small letters, digits and _, and none of: "
                f"{', '.join(sorted(_TAKEN))}"
            )
        if not re.fullmatch(r"--[a-z][a-z0-9]*(-[a-z0-9]+)*", self.option) or self.kind == CORPUS:
            raise ConfigError(
                f"the part {self.name!r} has the option {self.option!r}; expected one as --labelled, not --{CORPUS}"
            )
        if not (self.keys and self.identity and self.content and set(self.identity) & set(self.required)):
            raise ConfigError(
                f"the part {self.name!r} needs keys, identity and content, and in its identity a key that no row lacks"
            )
        named = {*self.identity, *self.content, *self.optional, *filter(None, [self.label])}
        if unknown := sorted(named - set(self.keys)):
            raise ConfigError(f"the part {self.name!r} has no key {unknown[0]!r}{nearest(unknown[0], self.keys)}")

    @property
    def required(self) -> tuple[str, ...]:
        """The columns that every row has."""
        return tuple(key for key in self.keys if key not in self.optional)

    @property
    def kind(self) -> str:
        """What a file with such rows is called where data is added: the option without its dashes."""
        return self.option.removeprefix("--")

    @property
    def columns(self) -> str:
        """Its columns in words: ``instruction, output and perhaps input``."""
        needed = join_words(self.required, "and")
        return f"{', '.join(self.required)} and perhaps {join_words(self.optional, 'and')}" if self.optional else needed


PARTS: dict[str, Part] = {}
"""The parts that have been registered, by name, in the order in which they are prepared; read it by ``list_parts``."""


def register_part(part: Part) -> Part:
    """Add a part to the table.

    Raises:
        ConfigError: another part has its name or its option.
    """
    for other in PARTS.values():
        if part.name == other.name or part.option == other.option:
            raise ConfigError(
                f"two parts of the data have the name {part.name!r} or the option {part.option!r}: {other.title} and "
                f"{part.title}; rename one"
            )
    PARTS[part.name] = part
    return part


@contextmanager
def use_part(part: Part) -> Iterator[Part]:
    """Register a part for the time of a block, as tests need it."""
    register_part(part)
    try:
        yield part
    finally:
        del PARTS[part.name]


def list_parts() -> tuple[Part, ...]:
    """Every part, those of installed components among them.

    Raises:
        ConfigError: a component cannot be loaded.
    """
    load_components()
    return tuple(PARTS.values())


def find_part(name: str) -> Part:
    """The part of this name.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    known = {part.name: part for part in list_parts()}
    if name not in known:
        raise ConfigError(
            f"unknown part of the data {name!r}{nearest(name, known)}; is the component that has it here?"
        )
    return known[name]


def find_kind(kind: str) -> Part | None:
    """The part that files of a kind have rows for; None for texts.

    Raises:
        ConfigError: there is no such kind; names the nearest.
    """
    known = {part.kind: part for part in list_parts()}
    if kind != CORPUS and kind not in known:
        raise ConfigError(f"unknown kind of data {kind!r}{nearest(kind, [CORPUS, *known])}")
    return known.get(kind)


def list_options() -> str:
    """The options that give rows, in words: ``--labelled or --instructions``."""
    return join_words([part.option for part in list_parts()], "or")


def describe_lack(names: Iterable[str]) -> str:
    """Describe that data has no row of any of these parts, and which options give some.

    Raises:
        ConfigError: a part is unknown.
    """
    parts = [find_part(name) for name in names]
    return f"the data has no {' and no '.join(f'{part.title} ({part.option})' for part in parts)}"


def join_words(words: Iterable[str], last: str) -> str:
    """``a, b and c``."""
    *first, end = words
    return f"{', '.join(first)} {last} {end}" if first else end


CLASSIFY = register_part(
    Part(
        "classify",
        "--labelled",
        "labelled rows",
        keys=("text", "label"),
        identity=("text",),
        content=("text",),
        label="label",
    )
)
"""Texts and their classes."""
INSTRUCT = register_part(
    Part(
        "instruct",
        "--instructions",
        "instruction rows",
        keys=("instruction", "input", "output"),
        optional=("input",),
        identity=("instruction", "input"),
        # questions about different things are alike in their words, their answers differ
        content=("instruction", "input", "output"),
    )
)
"""Instructions and their answers."""
