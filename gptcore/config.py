"""Config: a frozen dataclass that survives JSON.

A run is described by one value built from these. ``to_dict`` writes the class name under ``kind``; ``from_dict``
finds the class by it, so that a checkpoint or a tracked run can be read back years later, and an unknown kind or field
is refused with the nearest known name.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from gptcore.components import load_components
from gptcore.errors import ConfigError

Json = dict[str, Any]
T = TypeVar("T")
KINDS: dict[str, type[Config]] = {}
"""Every kind of configuration that has been defined, by its name."""


def later(default: T) -> T:
    """A field that was added after outputs had been made: the JSON form leaves it out while it has this value.

    So the keys, run identities and specs of everything that does not use it stay what they were.
    """
    return dataclasses.field(default=default, metadata={"silent": True})


@dataclass(frozen=True)
class Config:
    """Base of every configuration value and of every stateless component."""

    def __init_subclass__(cls, **rest: Any) -> None:
        """Register the kind.

        Raises:
            ConfigError: another class has its name, so that a JSON form could mean either.
        """
        super().__init_subclass__(**rest)
        known = KINDS.setdefault(cls.__name__, cls)
        if _full_name(known) != _full_name(cls):
            raise ConfigError(
                f"two kinds of configuration are named {cls.__name__!r}: {_full_name(known)} and "
                f"{_full_name(cls)}; rename one, since a JSON form names its kind by the class name alone"
            )
        KINDS[cls.__name__] = cls

    def to_dict(self, *, whole: bool = False) -> Json:
        """This value as plain JSON types, its class name under ``kind``.

        Args:
            whole: with the fields that were added ``later`` even where they have their defaults, for people to read.
        """
        shown = [f for f in dataclasses.fields(self) if whole or not _is_silent(f, getattr(self, f.name))]
        return {"kind": type(self).__name__, **{f.name: _to_json(getattr(self, f.name), whole=whole) for f in shown}}

    @classmethod
    def from_dict(cls, data: Json) -> Self:
        """Rebuild a value written by ``to_dict``.

        Raises:
            ConfigError: the kind is not a known subclass of this class, or a field is unknown or of the wrong type.
        """
        target = _find_kind(cls, data.get("kind", cls.__name__))
        known = {f.name: f for f in dataclasses.fields(target)}
        hints = typing.get_type_hints(target)
        values: Json = {}
        for name, raw in data.items():
            if name == "kind":
                continue
            if name not in known:
                raise ConfigError(f"{target.__name__} has no field {name!r}{nearest(name, known)}")
            values[name] = coerce(hints[name], raw, where=f"{target.__name__}.{name}")
        try:
            built: Self = target(**values)
        except TypeError as error:
            raise ConfigError(f"{target.__name__}: {error}") from error
        return built

    def digest(self) -> str:
        """sha256 (hex) of the canonical JSON form."""
        return hashlib.sha256(canonical_json(self.to_dict()).encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def require_at_least(config: Config, **lowest: int) -> None:
    """Refuse fields below their lowest value.

    Raises:
        ConfigError: names class, field, value and the lowest one.
    """
    for name, low in lowest.items():
        if getattr(config, name) < low:
            raise ConfigError(
                f"expected {type(config).__name__}.{name} to be at least {low}, got {getattr(config, name)}"
            )


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """A suffix for an error message: the nearest known name, and all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{hint} (known: {', '.join(names)})"


def set_by_path(config: Config, path: str, raw: Any) -> Config:
    """A copy of ``config`` with the field at a dotted path replaced, as ``--set train.optimizer.lr=1e-3`` does.

    Text in the place of a configuration names another kind of it, as in ``train.schedule=Constant``; the fields that
    both kinds have keep their values.

    Raises:
        ConfigError: a part of the path is not a field, or the value does not fit the field's type.
    """
    head, _, rest = path.partition(".")
    fields = {f.name for f in dataclasses.fields(config)}
    if head not in fields:
        raise ConfigError(f"{type(config).__name__} has no field {head!r}{nearest(head, fields)}")
    current = getattr(config, head)
    if rest:
        if not isinstance(current, Config):
            raise ConfigError(f"{type(config).__name__}.{head} has no fields of its own; cannot set {path!r}")
        value: Any = set_by_path(current, rest, raw)
    else:
        hint, where = typing.get_type_hints(type(config))[head], f"{type(config).__name__}.{head}"
        if isinstance(hint, type) and isinstance(current, Config) and isinstance(raw, str):
            value = _as_kind(current, hint, raw, where)
        else:
            value = coerce(hint, raw, where=where)
    return dataclasses.replace(config, **{head: value})


def _as_kind(config: Config, base: type[Config], kind: str, where: str) -> Config:
    try:
        target = _find_kind(base, kind)
        names = {f.name for f in dataclasses.fields(target)} & {f.name for f in dataclasses.fields(config)}
        built: Config = target(**{name: getattr(config, name) for name in names})
    except (ConfigError, TypeError) as error:
        raise ConfigError(f"{where}: {error}") from error
    return built


def _is_silent(field: dataclasses.Field[Any], value: Any) -> bool:
    return bool(field.metadata.get("silent")) and value == field.default


def _full_name(kind: type[Config]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _to_json(value: Any, *, whole: bool) -> Any:
    if isinstance(value, Config):
        return value.to_dict(whole=whole)
    if isinstance(value, tuple | list):
        return [_to_json(item, whole=whole) for item in value]
    if isinstance(value, dict):
        return {str(key): _to_json(item, whole=whole) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def _find_kind(base: type[Config], kind: str) -> type[Any]:
    if kind == base.__name__:
        return base
    if kind not in KINDS:
        load_components()
    found = KINDS.get(kind)
    if found is None or not issubclass(found, base):
        known = [base.__name__, *(name for name, each in KINDS.items() if issubclass(each, base))]
        raise ConfigError(f"unknown {base.__name__} kind {kind!r}{nearest(kind, known)}")
    return found


def coerce(hint: Any, raw: Any, *, where: str) -> Any:
    """``raw`` (JSON, or text from a command line) as the type that ``hint`` names.

    Raises:
        ConfigError: it does not fit; the text names ``where``, the value and the expected type.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _coerce_union(args, raw, where)
    if origin is typing.Literal:
        for choice in args:
            if raw == choice or raw == str(choice):  # a command line gives "4" where the choice is 4
                return choice
        raise ConfigError(f"expected {where} to be one of {', '.join(map(repr, args))}, got {raw!r}")
    if origin is tuple:
        items = _split(raw) if isinstance(raw, str) else raw
        if not isinstance(items, list | tuple):
            raise ConfigError(f"expected {where} to be a list, got {raw!r}")
        inner = args[0] if len(args) == 2 and args[1] is Ellipsis else None
        if inner is None and len(items) != len(args):
            raise ConfigError(f"expected {where} to have {len(args)} values, got {len(items)}")
        return tuple(coerce(inner or args[i], item, where=f"{where}[{i}]") for i, item in enumerate(items))
    if origin is dict:
        if not isinstance(raw, dict):
            raise ConfigError(f"expected {where} to be a table of names and values, got {raw!r}")
        return {key: coerce(args[1], item, where=f"{where}[{key!r}]") for key, item in raw.items()}
    return _coerce_plain(hint, raw, where)


def _coerce_union(args: tuple[Any, ...], raw: Any, where: str) -> Any:
    if type(None) in args and (raw is None or raw == "none"):
        return None
    failures = []
    for option in args:
        if option is type(None):
            continue
        try:
            return coerce(option, raw, where=where)
        except ConfigError as error:
            failures.append(str(error))
    raise ConfigError(failures[-1])


def _coerce_plain(hint: Any, raw: Any, where: str) -> Any:
    if isinstance(hint, type) and issubclass(hint, Config):
        if isinstance(raw, hint):
            return raw
        if isinstance(raw, dict):
            return hint.from_dict(raw)
    elif hint is bool:
        table = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        value = table.get(raw.lower()) if isinstance(raw, str) else raw
        if isinstance(value, bool):
            return value
    elif hint in (int, float, str, Path):
        fits = isinstance(raw, str | int | float | Path) and not isinstance(raw, bool)
        whole = hint is not int or not isinstance(raw, float) or raw.is_integer()
        textual = hint not in (str, Path) or isinstance(raw, str | Path)
        if fits and whole and textual:
            try:
                return hint(raw)
            except ValueError:
                pass
    else:
        return raw
    raise ConfigError(f"expected {where} to be of type {hint.__name__}, got {raw!r}")


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
