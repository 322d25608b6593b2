"""Kinds of configuration: one name each, fields that move no key, and components of other packages."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from gptcore.config import Config, later
from gptcore.errors import ConfigError
from gptcore.objectives import Objective


@dataclass(frozen=True)
class Sized(Config):
    """A value with a field that came later."""

    width: int = 4
    window: int | None = later(None)


@dataclass(frozen=True)
class Around(Config):
    """A value inside another."""

    inner: Sized = Sized()


def test_a_field_that_came_later_is_left_out_while_it_has_its_default() -> None:
    """Also inside another value; so no key of what does not use it changes."""
    assert Around().to_dict() == {"kind": "Around", "inner": {"kind": "Sized", "width": 4}}
    assert Around().digest() == Around.from_dict(Around().to_dict()).digest()
    used = Around(Sized(window=8))
    assert used.to_dict()["inner"] == {"kind": "Sized", "width": 4, "window": 8}
    assert Around.from_dict(used.to_dict()) == used


def test_people_are_shown_every_field() -> None:
    assert Around().to_dict(whole=True)["inner"] == {"kind": "Sized", "width": 4, "window": None}


def test_a_second_kind_of_a_name_is_refused_where_it_is_defined() -> None:
    """The kind: a JSON form that could mean two classes; the one that was imported last would win silently."""
    with pytest.raises(ConfigError, match=r"two kinds of configuration are named 'NextToken': gptcore\.objectives"):

        class NextToken(Objective):
            """A name that is taken."""


def install(folder: Path, name: str, module: str, text: str) -> None:
    """A package with a component, as pip would leave it."""
    (folder / f"{module}.py").write_text(text)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[gptworks.components]\n{name} = {module}\n")


def read_kind(folder: Path) -> subprocess.CompletedProcess[str]:
    """A process that reads a configuration of the package's kind."""
    code = "from gptcore.config import Config; print(Config.from_dict({'kind': 'Outside', 'n': 3}))"
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r}); {code}"],
        capture_output=True,
        text=True,
    )


def test_a_kind_of_another_package_is_found_by_its_entry_point(tmp_path: Path) -> None:
    text = (
        "from dataclasses import dataclass\nfrom gptcore.config import Config\n"
        "@dataclass(frozen=True)\nclass Outside(Config):\n    n: int = 1\n"
    )
    install(tmp_path, "outsider", "outsider_kinds", text)
    assert read_kind(tmp_path).stdout == "Outside(n=3)\n"


def test_a_component_that_cannot_be_loaded_is_named_with_its_package(tmp_path: Path) -> None:
    install(tmp_path, "broken", "broken_kinds", "raise RuntimeError('no licence')\n")
    assert (
        "the component 'broken' (broken_kinds) of broken could not be loaded: no licence" in read_kind(tmp_path).stderr
    )
