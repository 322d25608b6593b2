"""The guards are guarded: with any one of them broken, a test that is there for it turns red.

Each mutation changes one place in a copy of the code and runs the tests of that place against the copy. The same tests
pass on a copy with nothing changed, so that what they find is the mutation.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.statistics

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("eval", "tests/eval", "tests/conftest.py", "pyproject.toml")


class Mutation(NamedTuple):
    """One guard, broken."""

    file: str
    """Below ``eval``."""
    before: str
    after: str
    tests: str
    """The file below ``tests/eval`` that must turn red."""


MUTATIONS = {
    # what is not scored
    "failures leave the bounds": Mutation(
        "judge/summary.py", "(sum(scores) + MAX_SCORE * n_unscored) / n", "sum(scores) / len(scores)", "test_run.py"
    ),
    "failures count as zero": Mutation(
        "judge/summary.py",
        "scores = [verdict.score for verdict in verdicts if verdict.score is not None]",
        "scores = [verdict.score or 0 for verdict in verdicts]",
        "test_run.py",
    ),
    "a cut answer is read": Mutation(
        "judge/schema.py", 'if reply.done_reason == "length":', "if False:", "judge/test_schema.py"
    ),
    "an answer without its end is read": Mutation(
        "judge/schema.py", "if not reply.done:", "if False:", "judge/test_schema.py"
    ),
    "the last of two scores counts": Mutation(
        "judge/schema.py", "if key in unique:", "if False:", "judge/test_schema.py"
    ),
    "asked until it parses": Mutation("judge/exchange.py", "_REPAIRS = 1", "_REPAIRS = 4", "judge/test_pointwise.py"),
    # both orders
    "one order only": Mutation(
        "judge/pairwise.py",
        'slots: tuple[Slot, Slot] = ("A", "B")',
        'slots = ("A", "A")',
        "judge/test_pairwise.py",
    ),
    "the first order decides": Mutation(
        "judge/pairwise.py", 'first if first == second else "tie"', "first", "judge/test_pairwise.py"
    ),
    "half a comparison counts": Mutation(
        "stats/pairwise.py", "if None not in game]", "if True]", "stats/test_pairwise.py"
    ),
    "known pairs are not weighed": Mutation(
        "trust.py",
        "return Validity(not failed, checks, failed)",
        "return Validity(True, checks, failed)",
        "test_tournament.py",
    ),
    # nothing cut in silence, nothing hangs
    "the server may cut": Mutation("judge/ollama.py", '"shift": False', '"shift": True', "judge/test_ollama.py"),
    "half a window is not noticed": Mutation(
        "judge/window.py", "or abs(counted - half) <= 2", "", "judge/test_ollama.py"
    ),
    "too few tokens are not noticed": Mutation(
        "judge/window.py", "counted * _MOST_BYTES_A_TOKEN <= n_bytes", "False", "judge/test_ollama.py"
    ),
    "what cannot fit is sent": Mutation(
        "judge/window.py", "if n_bytes > _MOST_BYTES_A_TOKEN * options.num_ctx:", "if False:", "judge/test_ollama.py"
    ),
    "the canary is not looked at": Mutation(
        "judge/startup.py", "(reply.prompt_tokens or 0) < options.num_ctx", "False", "judge/test_startup.py"
    ),
    "an answer may trickle for ever": Mutation(
        "judge/transport.py", "if time.monotonic() - started > total:", "if False:", "judge/test_ollama.py"
    ),
    "every failure is tried again": Mutation(
        "judge/client.py", "if not failure.transient:", "if False:", "judge/test_ollama.py"
    ),
    # judged text is data
    "markers stay as they are": Mutation(
        "judge/prompt.py", "text, n = pattern.subn(replacement, text)", "n = 0", "judge/test_prompt.py"
    ),
    "the nonce is known": Mutation(
        "judge/prompt.py",
        '.encode("ascii")).hexdigest()[:8]',
        '.encode("ascii")).hexdigest()[:0]',
        "judge/test_prompt.py",
    ),
    "controls come last": Mutation(
        "judge/controls.py",
        "    rng.shuffle(others)\n",
        "    return [*range(n_items), *others, *late]\n",
        "judge/test_controls.py",
    ),
    # the store
    "failures are served": Mutation(
        "judge/store.py",
        'record["outcome"] != OK and record["exchange"] not in self._settled',
        "False",
        "judge/test_store.py",
    ),
    "another model's answers are served": Mutation(
        "judge/store.py", '"describe": describe,', '"describe": {},', "judge/test_store.py"
    ),
    "a repeat is served from the store": Mutation(
        "judge/store.py", '"identity": identity,', '"identity": {**identity, "repeat": 0},', "judge/test_store.py"
    ),
    "what a changed judge said is kept": Mutation(
        "judge/store.py", "            for record in doubtful:", "            for record in ():", "judge/test_store.py"
    ),
    # verdicts
    "what was not measured passes": Mutation(
        "stats/checks.py", "            return False", "            return True", "stats/test_validity.py"
    ),
    "the unscored cannot turn a verdict": Mutation(
        "stats/two_runs.py", "difference > 0 and bounds[0] > 0", "difference > 0", "stats/test_two_runs.py"
    ),
    "a family has no correction": Mutation(
        "stats/two_runs.py", "p_values[index] * (n - step)", "p_values[index]", "stats/test_two_runs.py"
    ),
    "other instruments are compared": Mutation(
        "stats/provenance.py", "one.name not in ignore]", 'not one.name.startswith("judge")]', "stats/test_items.py"
    ),
    "other items are paired": Mutation("stats/items.py", "if only_a or only_b:", "if False:", "stats/test_items.py"),
    "labels alone accept a judge": Mutation(
        "stats/acceptance.py", "(_NO_CONTROLS,)", "()", "stats/test_calibration.py"
    ),
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of the evaluation and its tests, apart from the project."""
    folder = tmp_path_factory.mktemp("mutated")
    for name in COPIED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "test_mutations.py"))
        else:
            shutil.copy(source, target)
    return folder


def outcome(folder: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    """The end of these tests on the copy: 0 all pass, 1 some fail."""
    # what a broken deadline leaves hanging is red as well
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-o", "timeout=60"]
    return subprocess.run(
        [*command, *(str(Path("tests/eval") / name) for name in tests)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def test_what_the_mutations_are_tried_on_passes_unchanged(copy: Path) -> None:
    found = outcome(copy, *sorted({mutation.tests for mutation in MUTATIONS.values()}))
    assert found.returncode == 0, found.stdout[-3000:]


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_guard_turns_a_test_red(name: str, copy: Path) -> None:
    mutation = MUTATIONS[name]
    path = copy / "eval" / mutation.file
    whole = path.read_text(encoding="utf-8")
    assert whole.count(mutation.before) >= 1, f"{mutation.file} has no {mutation.before!r} any more; mend the mutation"
    path.write_text(whole.replace(mutation.before, mutation.after), encoding="utf-8")
    try:
        found = outcome(copy, mutation.tests)
    finally:
        path.write_text(whole, encoding="utf-8")
    assert found.returncode == 1, found.stdout[-3000:]
    assert "failed" in found.stdout
