"""The table of exports: what ``gptworks export --to`` can write, one value each.

A description imports nothing heavy, so that ``--help`` is quick; its exporter (``gptcore.export.exporter``) is loaded
when it is used. A further export is a registration and a class::

    register_export(
        Export("npz", "an archive for numpy", "my_package.npz:NpzExporter", takes={"words": ("words",)}, ...)
    )
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from gptcore.config import nearest
from gptcore.errors import ConfigError

if TYPE_CHECKING:  # the command line reads descriptions alone
    from gptcore.export.exporter import Exporter
    from gptcore.models import Ability
    from gptcore.transforms import Head

_TAKEN = frozenset({"checkpoint", "out", "to", "help"})
"""What the command itself has."""


@dataclass(frozen=True)
class Option:
    """A setting of an export: an option of the command, and a field of the exporter.

    Raises:
        ConfigError: the name or the default cannot be.
    """

    name: str
    """Of the exporter's field; with ``--`` in front, and ``-`` for ``_``, of the command's option."""
    sentence: str
    """What it is, in the help."""
    default: str | None = None
    """What the exporter gets if none is given; None leaves it to the exporter."""
    choices: tuple[str, ...] = ()
    """The values there are; empty where any text will do."""

    def __post_init__(self) -> None:
        """Refuse what would be found out only where it is used."""
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name) or self.name in _TAKEN:
            raise ConfigError(
                f"an option of an export is named {self.name!r}; expected small letters, digits and _, and none of: "
                f"{', '.join(sorted(_TAKEN))}"
            )
        if self.default is not None:
            self.check(self.default)

    @property
    def flag(self) -> str:
        """As it is typed."""
        return f"--{self.name.replace('_', '-')}"

    def check(self, value: str) -> str:
        """A value that may be given.

        Raises:
            ConfigError: it is none of the choices; names the nearest.
        """
        if self.choices and value not in self.choices:
            raise ConfigError(f"{self.flag} is {value!r}{nearest(value, self.choices)}")
        return value


@dataclass(frozen=True)
class Export:
    """One form in which a checkpoint is written for another program."""

    name: str
    """What ``--to`` calls it."""
    sentence: str
    """What is written, in the help: ``a folder for transformers``."""
    exporter: str
    """Where its ``Exporter`` is, as ``package.module:Class``."""
    takes: Mapping[Head, tuple[Ability, ...]]
    """The heads that it has a form for; for each, what the network must be able to do."""
    options: tuple[Option, ...] = ()
    """Its settings."""
    out: str = ""
    """What the command's second argument is, where it is not a folder to write."""

    def open(self, given: Mapping[str, str | None] | None = None) -> Exporter:
        """Its exporter with these settings; those that are None count as not given.

        Raises:
            ConfigError: it has no such setting, or a value is none of the choices.
        """
        options = {option.name: option for option in self.options}
        values = {name: option.default for name, option in options.items()}
        for name, value in (given or {}).items():
            if value is not None and name not in options:
                raise ConfigError(self._foreign(name))
            values |= {name: options[name].check(value)} if value is not None else {}
        kind: type[Exporter] = pkgutil.resolve_name(self.exporter)
        return kind(**{name: value for name, value in values.items() if value is not None})

    def _foreign(self, name: str) -> str:
        flag = f"--{name.replace('_', '-')}"
        others = [each.name for each in REGISTERED.values() if name in [option.name for option in each.options]]
        own = ", ".join(option.flag for option in self.options) or "no option"
        return f"{flag} does not apply to --to {self.name}, only to: {', '.join(others) or 'none'}; expected {own}"


_EXPORTS: dict[str, Export] = {}
REGISTERED: Mapping[str, Export] = MappingProxyType(_EXPORTS)
"""Every registered export by name."""


def register_export(export: Export) -> Export:
    """Add an export to the table.

    Raises:
        ConfigError: there is one of this name, or another has an option of the same name that is not the same.
    """
    if export.name in _EXPORTS:
        raise ConfigError(
            f"two exports are named {export.name!r}: {_EXPORTS[export.name].exporter} and {export.exporter}; rename one"
        )
    known = {option.name: (option, other) for other in _EXPORTS.values() for option in other.options}
    for option in export.options:
        if option.name in known and known[option.name][0] != option:
            raise ConfigError(
                f"the exports {known[option.name][1].name!r} and {export.name!r} have options {option.flag} that are "
                "not the same; rename one, or use the same Option"
            )
    _EXPORTS[export.name] = export
    return export


@contextmanager
def use_export(export: Export) -> Iterator[Export]:
    """Have an export in the table for a while, as tests need it."""
    register_export(export)
    try:
        yield export
    finally:
        del _EXPORTS[export.name]
