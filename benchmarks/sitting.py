"""One sitting: every implementation of a work in turn, each in a process of its own, for several rounds.

The parent stays small (the standard library only) and does nothing while a process is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence

from benchmarks.measured import NOT_MEASURED, Measured
from benchmarks.options import ROOT, Options, parse
from benchmarks.report import write_report
from benchmarks.work import Implementation, Work

PREPARE = "prepare"
_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "MPLBACKEND": "Agg",
}


class MeasurementError(RuntimeError):
    """A measured process failed; the text holds the end of what it said."""


def main(module: str, build: Callable[[Options], Work], parser: argparse.ArgumentParser) -> None:
    """The command line of a work: the sitting, or in a measured process its one part.

    Args:
        module: the work's module, as ``python -m`` takes it.
        build: the work for these options.
        parser: of its options.
    """
    argv = sys.argv[1:]
    options = parse(parser, argv)
    work = build(options)
    if options.only is not None:
        sys.stdout.write(measure_part(work, options) + "\n")
        return
    try:
        rounds, missing = run_sitting(work, options, command=[module, *argv])
    except MeasurementError as error:
        raise SystemExit(str(error)) from None
    write_report(work, options, rounds=rounds, missing=missing, command=["python", "-m", module, *argv])


def measure_part(work: Work, options: Options) -> str:
    """In a measured process: prepare the data, or measure one implementation; the line to be printed."""
    assert options.only is not None
    assert options.data is not None
    if options.only == PREPARE:
        work.prepare(options, options.data)
        return "{}"
    (implementation,) = [each for each in work.implementations if each.name == options.only]
    for needed in implementation.needs:
        if importlib.util.find_spec(needed) is None:
            return json.dumps({NOT_MEASURED: f"{needed} is not installed for {sys.executable}"})
    with contextlib.redirect_stdout(sys.stderr):  # what a library prints must not stand before the result
        measured = implementation.measure(options, options.data)
    return measured.to_json()


def run_sitting(
    work: Work, options: Options, *, command: Sequence[str]
) -> tuple[dict[str, list[Measured]], dict[str, str]]:
    """All rounds.

    Args:
        work: what is done.
        options: how often.
        command: the work's module and the options given, for the measured processes.

    Returns:
        What was measured, by implementation, and why others were not.

    Raises:
        MeasurementError: a process failed.
    """
    chosen = chosen_implementations(work, options)
    rounds: dict[str, list[Measured]] = {}
    missing: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="gptworks-bench-") as folder:
        data = ["--data", folder]
        run_part([sys.executable, "-m", *command, "--only", PREPARE, *data], threads=options.threads)
        for number in range(options.rounds):
            for each in chosen:
                if each.name in missing:
                    continue
                python = interpreter(each, options)
                if python is None:
                    missing[each.name] = f"there is no {options.litgpt_python}; `make bench-peers` makes it"
                    continue
                _say(f"{work.name}: round {number + 1} of {options.rounds}, {each.name}")
                part = ["--only", each.name, "--turn", str(number), *data]
                line = run_part([python, "-m", *command, *part], threads=options.threads)
                if NOT_MEASURED in (found := json.loads(line)):
                    missing[each.name] = found[NOT_MEASURED]
                    continue
                rounds.setdefault(each.name, []).append(Measured.from_json(line))
                _say(f"  {work.figure(rounds[each.name][-1]):,.2f} {work.unit}")
    return rounds, missing


def chosen_implementations(work: Work, options: Options) -> list[Implementation]:
    """Those that ``--implementations`` names, or all.

    Raises:
        SystemExit: a name is unknown.
    """
    names = [each.name for each in work.implementations]
    unknown = [name for name in options.implementations if name not in names]
    if unknown:
        raise SystemExit(f"--implementations {unknown[0]}: {work.name} has {', '.join(names)}")
    return [
        each for each in work.implementations if not options.implementations or each.name in options.implementations
    ]


def interpreter(implementation: Implementation, options: Options) -> str | None:
    """The interpreter that it runs in, or None if there is none."""
    if not implementation.in_litgpt:
        return sys.executable
    return str(options.litgpt_python) if options.litgpt_python.exists() else None


def run_part(command: Sequence[str], *, threads: int) -> str:
    """Run one process; the last line of its output.

    Raises:
        MeasurementError: it failed or said nothing.
    """
    number = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    environment = os.environ | _QUIET | number
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        raise MeasurementError(
            f"{' '.join(command)} ended with exit code {done.returncode} and {len(lines)} lines; it said:\n"
            f"{done.stderr[-4000:]}"
        )
    return lines[-1]


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
