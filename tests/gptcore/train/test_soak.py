"""Runs that are killed by SIGKILL again and again, anywhere, end with the bits of runs that were not.

`make soak` kills hundreds of times: SOAK_KILLS says how often, SOAK_SEED repeats a soak. `make test` draws a few kills.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gptcore.errors import InterruptedRun
from gptcore.run import Run
from gptcore.train.feed import Feed

KINDS = ("pretraining", "classification", "instruction", "lora", "rollback")
PHASES = (
    ("sampling", "sample"),
    ("evaluation", "evaluate"),
    ("snapshot", "save_position"),
    ("snapshot", "save_best"),
    ("rollback", "_roll_back"),
    ("finish", "_finish"),
    ("step", "train_step"),
    ("between steps", "fit"),
    ("start", "live"),
)
"""What a run is doing, and a function that it is in then: the first that fits."""


class Life(NamedTuple):
    """What one process of a run left behind, beside the run's folder."""

    code: int
    """Exit code; negative after a signal."""
    draws: list[Any]
    """Each step, and what was drawn after it from python's, numpy's and torch's random streams."""
    samples: list[int]
    """Samples in the order in which they were taken."""
    operations: list[tuple[str, str]]
    """On files, in their order, with the file."""
    seconds: float
    """From the fork to the end."""
    phase: str
    """What the main thread was doing when it was killed."""
    writing: bool
    """Whether a checkpoint was being written then, in whatever thread."""


Live = Callable[..., Life]


@pytest.fixture
def live(runner: Any, tmp_path: Path) -> Live:
    """Let a run live until it ends or is killed."""
    n_lives = 0

    def begin(run: Run, out: Path, **job: Any) -> Life:
        nonlocal n_lives
        n_lives += 1
        diary = tmp_path / "diaries" / str(n_lives)
        started = time.monotonic()
        code = runner.live(run, out, diary=diary, **job)
        seconds = time.monotonic() - started
        lines = [json.loads(line) for line in (diary / "diary.jsonl").read_text().splitlines()]
        return Life(
            code,
            [line for line in lines if "drawn" in line],
            [i for line in lines for i in line.get("samples", ())],
            [(line["operation"], line["path"]) for line in lines if "operation" in line],
            seconds,
            phase_of((diary / "place.txt").read_text()),
            any(path.is_dir() for path in out.rglob(f"*.tmp-{runner.pid}")),
        )

    return begin


def phase_of(place: str) -> str:
    """The phase that a traceback belongs to; one that has not begun to keep a diary has none."""
    functions = set(re.findall(r" in (\w+)$", place, re.MULTILINE))
    return next((phase for phase, function in PHASES if function in functions), "start")


def left_by(out: Path) -> dict[str, bytes]:
    """Every file of a run but the lock, which names its process; of its result not what a clock has measured."""
    files = (path for path in out.rglob("*") if path.is_file() and path.name not in ("run.lock", "result.json"))
    left = {str(path.relative_to(out)): path.read_bytes() for path in files}
    result = json.loads((out / "result.json").read_text())
    result["metrics"] = {name: value for name, value in result["metrics"].items() if not name.startswith("perf/")}
    return left | {"result.json": json.dumps(result).encode()}


class Whole(NamedTuple):
    """A run that nothing happened to."""

    run: Run
    life: Life
    left: dict[str, bytes]
    samples: list[list[int]]
    """Of each step, as seed and batch size alone say."""

    def differences(self, lives: list[Life], out: Path) -> list[str]:
        """What the lives of a run that was killed saw or left otherwise."""
        left = left_by(out)
        names = sorted(left.keys() | self.left.keys())
        found = [f"file {name}" for name in names if left.get(name) != self.left.get(name)]
        for number, life in enumerate(lives, start=1):
            if not is_part(life.draws, self.life.draws):
                found.append(f"random streams of life {number}")
            if not any(is_start(life.samples, self.samples[step:]) for step in range(len(self.samples))):
                found.append(f"order of samples in life {number}")
        return found


def is_part(part: list[Any], whole: list[Any]) -> bool:
    """Whether a list stands in another without a gap."""
    return any(whole[start : start + len(part)] == part for start in range(len(whole) + 1))


def is_start(samples: list[int], steps: list[list[int]]) -> bool:
    """Whether samples are the first ones of the steps."""
    return [i for step in steps for i in step][: len(samples)] == samples


def undisturbed(run: Run, out: Path, live: Live, **job: Any) -> Whole:
    """Let a run live whole."""
    life = live(run, out, **job)
    assert life.code == 0
    feed = Feed(run.data.open(), run.objective, batch_size=run.train.batch_size, seed=run.seed)
    samples = [feed.indices(step).tolist() for step in range(3 * (run.train.steps or 0))]
    feed.close()
    whole = Whole(run, life, left_by(out), samples)
    assert whole.differences([life], out) == []
    assert len(life.draws) >= (run.train.steps or 0)
    assert len({number for line in life.draws for number in line["drawn"]}) == 3 * len(life.draws)
    return whole


@dataclass
class Soak:
    """Kills and stops runs at random, and counts."""

    live: Live
    chance: random.Random
    phases: Counter[str] = field(default_factory=Counter)
    n_kills: int = 0
    n_stops: int = 0
    n_runs: int = 0
    n_writing: int = 0
    n_at_operations: int = 0
    differences: list[str] = field(default_factory=list)

    def death(self, whole: Whole) -> dict[str, Any]:
        """How the next life ends: killed at any time, while it starts, or at an operation on files; or stopped."""
        form, seconds = self.chance.random(), whole.life.seconds
        if form < 0.2:
            return {"die_at": self.chance.randint(1, len(whole.life.operations))}
        if form < 0.3:
            return {"stop_after": self.chance.uniform(0, seconds)}
        return {"kill_after": self.chance.uniform(0, seconds * (0.2 if form < 0.45 else 1.0))}

    def run(self, whole: Whole, out: Path, *, max_kills: int) -> None:
        """Kill one run until a life outlasts its time, and compare."""
        lives: list[Life] = []
        while not lives or lives[-1].code:
            job = self.death(whole) if len(lives) < max_kills else {}
            life = self.live(whole.run, out, **job)
            lives.append(life)
            if "stop_after" in job:
                assert life.code in (0, InterruptedRun.exit_code, -signal.SIGTERM), life
                self.n_stops += life.code != 0
                continue
            assert life.code in (0, -signal.SIGKILL), life
            if life.code:
                self.phases[life.phase] += 1
                self.n_kills += 1
                self.n_writing += life.writing
                self.n_at_operations += "die_at" in job
        self.n_runs += 1
        found = whole.differences(lives, out)
        self.differences += [f"{out.name}: {text}" for text in found]
        if not found:
            shutil.rmtree(out)

    def report(self, seed: int) -> str:
        """A line."""
        places = ", ".join(f"{phase} {n}" for phase, n in self.phases.most_common())
        return (
            f"soak with seed {seed}: {self.n_kills} kills in {self.n_runs} runs, {len(self.differences)} differences; "
            f"killed in: {places}; {self.n_writing} while a checkpoint was written, {self.n_at_operations} at a chosen "
            f"file operation; stopped by SIGTERM besides: {self.n_stops}"
        )


def seed_of_soak() -> int:
    return int(os.environ.get("SOAK_SEED", int.from_bytes(os.urandom(4), "big")))


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_runs_that_are_killed_hundreds_of_times_end_with_the_same_bits(
    kinds: dict[str, Run], live: Live, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed, n_kills = seed_of_soak(), int(os.environ.get("SOAK_KILLS", "200"))
    soak = Soak(live, random.Random(seed))
    wholes = {kind: undisturbed(kinds[kind], tmp_path / f"whole-{kind}", live) for kind in KINDS}
    while soak.n_kills < n_kills:
        kind = KINDS[soak.n_runs % len(KINDS)]
        soak.run(wholes[kind], tmp_path / f"{kind}-{soak.n_runs}", max_kills=n_kills - soak.n_kills)
    with capsys.disabled():
        print(f"\n{soak.report(seed)}")
    assert not soak.differences, "\n".join(soak.differences)


def test_a_run_that_is_killed_at_random_ends_with_the_same_bits(
    kinds: dict[str, Run], live: Live, tmp_path: Path
) -> None:
    seed = seed_of_soak()
    soak = Soak(live, random.Random(seed))
    kind = soak.chance.choice(KINDS)
    whole = undisturbed(kinds[kind], tmp_path / "whole", live)
    while soak.n_kills < 12:
        soak.run(whole, tmp_path / f"{kind}-{soak.n_runs}", max_kills=12)
    print(soak.report(seed))
    assert not soak.differences, "\n".join(soak.differences)


def killed_at(
    operations: Iterable[int], whole: Whole, live: Live, out: Path, *, stop_at: int | None = None
) -> list[str]:
    """Kill a run at one operation on files after another, each time a new run; what differs in the end.

    With ``stop_at`` it was stopped after that step, and is killed when it has gone on.
    """
    found = []
    for number in operations:
        shutil.rmtree(out, ignore_errors=True)
        lives = [] if stop_at is None else [live(whole.run, out, stop_at=stop_at, flush=False)]
        lives += [live(whole.run, out, die_at=number, flush=False), live(whole.run, out, flush=False)]
        stopped = [] if stop_at is None else [InterruptedRun.exit_code]
        assert [life.code for life in lives] == [*stopped, -signal.SIGKILL, 0], number
        found += [f"operation {number}: {text}" for text in whole.differences(lives, out)]
    return found


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_killed_at_each_of_its_file_operations_ends_with_the_same_bits(
    kinds: dict[str, Run], live: Live, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = undisturbed(kinds[kind], tmp_path / "whole", live, flush=False)
    n = len(whole.life.operations)
    found = killed_at(range(1, n + 1), whole, live, tmp_path / "out")
    with capsys.disabled():
        print(f"\n{kind}: killed at each of {n} file operations, {len(found)} differences")
    assert not found, "\n".join(found)


def test_a_run_killed_at_some_of_its_file_operations_ends_with_the_same_bits(
    kinds: dict[str, Run], live: Live, tmp_path: Path
) -> None:
    seed = seed_of_soak()
    chance = random.Random(seed)
    kind = chance.choice(KINDS)
    whole = undisturbed(kinds[kind], tmp_path / "whole", live, flush=False)
    operations = chance.sample(range(1, len(whole.life.operations) + 1), 4)
    print(f"{kind} killed at its file operations {operations}, seed {seed}")
    assert killed_at(operations, whole, live, tmp_path / "out") == []


@pytest.mark.parametrize(
    ("stopped", "sample"),
    [
        (False, True),
        pytest.param(False, False, marks=pytest.mark.slow),
        pytest.param(True, False, marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_while_it_rolls_back_ends_with_the_same_bits(
    kinds: dict[str, Run], live: Live, tmp_path: Path, stopped: bool, sample: bool
) -> None:
    """Before its history is cut, before the rollback is written down, and before the position says so.

    Where it was stopped before, a newer checkpoint lies there, which the rollback must not return to.
    """
    whole = undisturbed(kinds["rollback"], tmp_path / "whole", live, flush=False)
    fault = next(line["step"] for line, after in pairwise(whole.life.draws) if after["step"] <= line["step"])
    seen, stop_at = whole.life, None
    if stopped:
        stop_at = fault
        assert fault % 2 == 1  # not where every run writes a checkpoint
        first = live(whole.run, tmp_path / "stopped", stop_at=stop_at, flush=False)
        seen = live(whole.run, tmp_path / "stopped", flush=False)
        assert whole.differences([first, seen], tmp_path / "stopped") == []
    history = [n for n, (_, file) in enumerate(seen.operations, 1) if file.endswith("metrics.jsonl")]
    cuts = [n for n in history if seen.operations[n - 1][0] == "os.truncate"]
    cut = cuts[len(cuts) - 1]  # of the start, and of each rollback
    written = history[history.index(cut) + 1]
    around = [cut, written] if sample else [cut, cut + 1, written, written + 1, written + 8]
    assert killed_at(around, whole, live, tmp_path / "out", stop_at=stop_at) == []
