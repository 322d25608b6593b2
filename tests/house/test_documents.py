"""Documents and pins say what is so: commands, paths and modules exist, every room is named, all is pinned."""

from __future__ import annotations

import functools
import importlib.metadata
import pkgutil
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = ("gptcore", "eval", "flows")
MAKE_TARGET = re.compile(r"^([a-z][a-z-]*):", re.MULTILINE)
SHELL_BLOCK = re.compile(r"^```(?:bash|sh|shell|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SEPARATORS = re.compile(r"[-_.]+")
DOCUMENTS = sorted(
    str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")) if path.is_file()
)
FOLDERS = "gptcore|eval|flows|tests|docs|benchmarks|deploy"
PATH = re.compile(rf"(?<![\w./<>-])(?:{FOLDERS})/[\w./<>*-]*[\w>*/]")
"""A file or folder of the project; ``<name>`` stands for any."""
MODULE = re.compile(r"(?<![\w./<>-])(?:gptcore|eval|flows|tests|benchmarks)(?:\.[A-Za-z_]\w*)+(?![\w/(-])")
"""A module, or what stands in one."""
INLINE_COMMAND = re.compile(r"`gptworks ([a-z][a-z-]*)")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
FORMER_MODULES = {"flows.sweep.sweep"}
"""Those that the changelog names as what they were."""


def canonical(name: str) -> str:
    """A distribution's name as the index compares it."""
    return SEPARATORS.sub("-", name).lower()


def document(name: str) -> str:
    """The text of a document of the project; a skip while it is not written."""
    path = ROOT / name
    if not path.is_file():
        pytest.skip(f"there is no {name}")
    return path.read_text(encoding="utf-8")


def shell_commands(text: str) -> list[list[str]]:
    """The words of every command in the fenced shell blocks: comments gone, `\\` joined, `a && b` and pipes split."""
    lines = "".join(SHELL_BLOCK.findall(text)).replace("\\\n", " ").splitlines()
    commands = []
    for line in lines:
        words = shlex.split(line.strip().removeprefix("$ "), comments=True)
        command: list[str] = []
        for word in words:
            if word in {"&&", "||", "|", ";", "&"}:
                commands.append(command)
                command = []
            else:
                command.append(word)
        commands.append(command)
    return [bare for command in commands if (bare := without_variables(command))]


def without_variables(command: list[str]) -> list[str]:
    """The command without the `NAME=value` in front of it."""
    position = next((i for i, word in enumerate(command) if not re.match(r"[A-Z_]+=", word)), len(command))
    return command[position:]


def make_targets() -> set[str]:
    return set(MAKE_TARGET.findall((ROOT / "Makefile").read_text(encoding="utf-8")))


@functools.cache
def gptworks_subcommands() -> set[str]:
    """The subcommands as the command line itself lists them."""
    source = "import sys; sys.argv = ['gptworks', '--help']; from flows.cli.entry import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", source],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return set(re.findall(r"^[\s│|]*([a-z][a-z-]+)(?=\s{2,})", result.stdout, re.MULTILINE))


def test_the_parser_of_shell_blocks_sees_every_command() -> None:
    shell = "A=1 make demo  # why\ngptworks runs --last \\\n  3 && make test\n"
    text = f"x\n```bash\n{shell}```\n```python\nmake nothing\n```\n"
    assert shell_commands(text) == [["make", "demo"], ["gptworks", "runs", "--last", "3"], ["make", "test"]]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_make_commands_in_the_documents_are_real_targets(name: str) -> None:
    named = [
        word
        for command in shell_commands(document(name))
        if command[0] == "make"
        for word in command[1:]
        if not word.startswith("-") and "=" not in word
    ]
    assert named, f"{name} shows no make command in a bash block"
    assert sorted(set(named) - make_targets()) == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_gptworks_commands_in_the_documents_are_real(name: str) -> None:
    text = document(name)
    calls = [command for command in shell_commands(text) if Path(command[0]).name == "gptworks"]
    named = {command[1] for command in calls if len(command) > 1 and not command[1].startswith("-")}
    named |= set(INLINE_COMMAND.findall(text))
    assert named or name != "README.md", "README.md shows no gptworks command in a bash block"
    assert sorted(named - gptworks_subcommands()) == []


def named_paths(text: str) -> set[str]:
    """Every path of the project that a text names, as a pattern."""
    return {re.sub(r"<[\w-]+>", "*", path).rstrip("/") for path in PATH.findall(text)}


def exists(name: str) -> bool:
    """Whether a dotted name is a module of the project, or stands in one."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def test_paths_and_modules_are_seen_in_a_text() -> None:
    text = "`flows/stages/<stage>/`, var/flows/x and gptcore/nn/linear.py; eval/types.py. See `gptcore.nn.StandIn`, x.y"
    assert named_paths(text) == {"flows/stages/*", "gptcore/nn/linear.py", "eval/types.py"}
    assert MODULE.findall(text) == ["gptcore.nn.StandIn"]
    assert exists("gptcore.nn.StandIn")
    assert not exists("gptcore.nn.Nothing")
    assert not exists("flows.engine")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_path_module_and_link_of_a_document_exists(name: str) -> None:
    text = document(name)
    here = (ROOT / name).parent
    links = {link for link in LINK.findall(text) if "://" not in link}
    assert sorted(path for path in named_paths(text) if not any(ROOT.glob(path))) == []
    assert sorted(module for module in {*MODULE.findall(text)} - FORMER_MODULES if not exists(module)) == []
    assert sorted(link for link in links if not (here / link).exists()) == []


def test_the_architecture_names_every_room() -> None:
    """A folder, or by the place of its name those of one kind: `gptcore/models/<family>/`."""
    named = {
        path.rstrip("/") for path in re.findall(r"^\| `([^`]+/)` \|", document("docs/architecture.md"), re.MULTILINE)
    }
    patterns = [re.compile(re.sub(r"<\w+>", r"[^/]+", path)) for path in named]
    rooms = {str(path.parent.relative_to(ROOT)) for top in PACKAGES for path in (ROOT / top).rglob("*/__init__.py")}
    assert sorted(room for room in rooms if not any(pattern.fullmatch(room) for pattern in patterns)) == []
    assert sorted(path for path in named if not any(ROOT.glob(re.sub(r"<\w+>", "*", path)))) == []


def test_the_values_that_the_architecture_names_stand_where_it_says() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| `([\w/.]+)` \|", document("docs/architecture.md"), re.MULTILINE)
    strayed = []
    for names, place in rows:
        files = [ROOT / place] if place.endswith(".py") else sorted((ROOT / place).glob("*.py"))
        text = "\n".join(file.read_text(encoding="utf-8") for file in files)
        strayed += [f"{name}: {place}" for name in re.findall(r"\w+", names) if f"class {name}" not in text]
    assert len(rows) > 20
    assert strayed == []


def test_the_version_is_the_newest_entry_of_the_changelog() -> None:
    entries = re.findall(r"^## \[?(\d+\.\d+\.\d+)\]?", document("CHANGELOG.md"), re.MULTILINE)
    assert entries[:1] == [PROJECT["version"]]


def test_make_help_lists_every_word_a_user_may_say() -> None:
    result = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    listed = set(re.findall(r"^  make ([a-z-]+)", result.stdout, re.MULTILINE))
    assert listed == make_targets()
    assert {"demo", "test", "check", "test-all", "bench", "clean"} <= listed


def test_everything_that_is_installed_for_the_project_is_pinned() -> None:
    """Walks the requirements of the project and of all that they require, as far as they are installed here."""
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    )
    pinned = {canonical(name) for name in pins}
    extras = PROJECT["optional-dependencies"]
    waiting = [*PROJECT["dependencies"], *extras["dev"], *extras["test"]]
    seen: set[str] = set()
    unpinned = []
    while waiting:
        requirement = waiting.pop()
        match = re.match(r"[A-Za-z0-9._-]+", requirement)
        assert match, requirement
        name = canonical(match.group())
        if name in seen:
            continue
        seen.add(name)
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # wanted on another platform or Python only
        # torch pins its CUDA libraries itself.
        if name not in pinned and not name.startswith(("nvidia-", "cuda-", "triton")):
            unpinned.append(name)
        waiting.extend(need for need in needs if "extra ==" not in need)
    assert len(seen) > len(PROJECT["dependencies"])
    assert sorted(unpinned) == []


def test_pins_satisfy_what_makes_prefect_run() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    found = re.search(r"^fastapi==0\.(\d+)\.", text, re.MULTILINE)
    assert found
    assert 139 <= int(found.group(1)) < 151
