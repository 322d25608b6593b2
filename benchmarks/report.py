"""The report of a sitting: JSON lines on the standard output, and a Markdown file with command, commit and machine."""

from __future__ import annotations

import datetime
import json
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import commit, machine
from benchmarks.measured import Measured
from benchmarks.options import Options
from benchmarks.work import Rounds, Verdict, Work, judge, ratio, spread


def write_report(
    work: Work, options: Options, *, rounds: Rounds, missing: dict[str, str], command: Sequence[str]
) -> Path | None:
    """Print the JSON lines; write the Markdown file if a folder is set, and return its path."""
    verdicts = [] if options.smoke else judge(work, rounds)
    for line in json_lines(work, rounds=rounds, missing=missing, verdicts=verdicts):
        sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
    if options.results is None:
        return None
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / f"{datetime.date.today().isoformat()}-{work.name}.md"
    extra = work.extra(rounds, path.with_suffix("")) if work.extra and rounds else ""
    head = _head(work, options, command)
    body = [_figures(work, rounds, missing), _targets(work, verdicts, missing), extra, _notes(work, rounds)]
    write_whole(path, "\n\n".join(filter(None, [head, *body])) + "\n")
    sys.stderr.write(f"{path}\n")
    return path


def write_whole(path: Path, text: str) -> None:
    """Write beside, then rename."""
    beside = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def json_lines(
    work: Work, *, rounds: Rounds, missing: dict[str, str], verdicts: Sequence[Verdict]
) -> list[dict[str, Any]]:
    """One line per implementation, and one per target."""
    lines: list[dict[str, Any]] = []
    for name, measured in rounds.items():
        figure, memory = spread([work.figure(m) for m in measured]), spread([m.peak_rss_mb for m in measured])
        lines.append(
            {
                "work": work.name,
                "implementation": name,
                "unit": work.unit,
                "median": round(figure.median, 3),
                "range": [round(figure.low, 3), round(figure.high, 3)],
                "peak_rss_mb": round(memory.median),
                "peak_rss_mb_range": [round(memory.low), round(memory.high)],
                "rounds": len(measured),
                "facts": measured[-1].facts,
            }
        )
    lines += [{"work": work.name, "implementation": name, "not_measured": why} for name, why in missing.items()]
    for verdict in verdicts:
        lines.append(
            {
                "work": work.name,
                "target": verdict.target.text(unit=work.unit),
                "value": None if verdict.ratio is None else round(verdict.ratio.median, 3),
                "met": verdict.met,
            }
        )
    return lines


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _head(work: Work, options: Options, command: Sequence[str]) -> str:
    lines = [
        f"# {work.title}",
        "",
        f"- {datetime.datetime.now().astimezone().strftime('%Y-%m-%d %H:%M %Z')}",
        f"- command: `{shlex.join(command)}`",
        f"- commit: {commit()}",
        f"- machine: {machine()}; {options.threads} threads a process",
        f"- {options.rounds} rounds in turn, a process each; {options.warmup} steps not counted, then {options.steps}",
        *(f"- {note}" for note in work.notes),
    ]
    if options.smoke:
        lines.append("- **smoke run at toy size: the figures mean nothing**")
    return "\n".join(lines)


def _figures(work: Work, rounds: Rounds, missing: dict[str, str]) -> str:
    first = next(iter(rounds), None)
    has_peers = any(target.peer for target in work.targets)
    header = ["implementation", f"{work.unit}, median (range)", "peak RSS, MB"]
    if has_peers:
        header += [f"{first} / it: {work.unit}", f"{first} / it: peak RSS"]
    rows = []
    for name, measured in rounds.items():
        row = [name, spread(_figures_of(work, measured)).text(2), spread(_memory_of(measured)).text(0)]
        if has_peers and first is not None:
            row.append(ratio(_figures_of(work, rounds[first]), _figures_of(work, measured)).text(2))
            row.append(ratio(_memory_of(rounds[first]), _memory_of(measured)).text(2))
        rows.append(row)
    rows += [[name, f"not measured: {why}", *[""] * (len(header) - 2)] for name, why in missing.items()]
    return table(header, rows)


def _figures_of(work: Work, measured: Sequence[Measured]) -> list[float]:
    return [work.figure(m) for m in measured]


def _memory_of(measured: Sequence[Measured]) -> list[float]:
    return [m.peak_rss_mb for m in measured]


def _targets(work: Work, verdicts: Sequence[Verdict], missing: dict[str, str]) -> str:
    if not verdicts:
        return ""
    rows = []
    for verdict in verdicts:
        if verdict.ratio is None:
            absent = [n for n in (verdict.target.ours, verdict.target.peer) if n in missing]
            said = f"not measured: {', '.join(absent)}" if absent else "not measured"
            rows.append([verdict.target.text(unit=work.unit), "", said])
        else:
            said = "met" if verdict.met else "**not met**"
            rows.append([verdict.target.text(unit=work.unit), verdict.ratio.text(2), said])
    return table(["target", "reached (range over the rounds)", ""], rows)


def _notes(work: Work, rounds: Rounds) -> str:
    lines = []
    for each in work.implementations:
        if each.name in rounds:
            facts = rounds[each.name][-1].facts
            said = "; ".join(f"{key} {value}" for key, value in facts.items() if not isinstance(value, dict | list))
            lines.append(f"- **{each.name}**: {each.what}. {said}")
    return "\n".join(lines)
