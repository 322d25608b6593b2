"""People's scores of answers: the file they are kept in, and the session in which a person gives them.

The session is blind: it shows the task, the reference and the answer, never the model's name or the judge's score, and
in an order that says nothing. Each score is on the disk before the next item is shown.
"""

from __future__ import annotations

import csv
import os
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from eval.digest import digest
from eval.errors import EvalDataError
from eval.judge.prompt import neutralise
from eval.types import MAX_SCORE, MIN_SCORE

COLUMNS: Final = ("id", "human", "rater", "answer")
"""Of the file that a session writes."""
_SKIP, _QUIT = "s", "q"


@dataclass(frozen=True)
class Labels:
    """A file of people's scores."""

    human: dict[str, float]
    """By item, the mean over the raters."""
    judge: dict[str, float | None] | None
    """By item, the judge's scores, None where it gave none; None if the file has no such column."""
    texts: dict[str, tuple[str, str]] | None
    """By item, answer and reference; None if the file lacks one of these columns."""
    answers: dict[str, str]
    """By item, ``answer_mark`` of the answer that was scored, where the file has it."""


def answer_mark(response: str) -> str:
    """Identifies an answer among those to the same item, as of another run: 12 digits of its sha256."""
    return digest(response)[:12]


def read_labels(path: Path) -> Labels:
    """A csv file with the columns ``id`` and ``human`` (0 to 100), perhaps ``judge`` (empty where it gave none),
    ``response`` and ``reference``. An item that several people scored comes once for each of them.

    Raises:
        EvalDataError: the file is missing, empty or lacks a column, or a score is not a number of 0 to 100.
    """
    if not path.is_file():
        raise EvalDataError(f"there is no file {path}; make one: gptworks judge label --run RUN --out {path}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or ())
            rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise EvalDataError(f"{path} cannot be read as csv in UTF-8: {error}") from error
    for name in ("id", "human"):
        if name not in columns:
            raise EvalDataError(f"{path} has no column {name!r} (it has: {', '.join(columns) or 'none'})")
    if not rows:
        raise EvalDataError(f"{path} holds no labels; continue with: gptworks judge label --out {path}")
    human: dict[str, list[float]] = defaultdict(list)
    judge: dict[str, float | None] = {}
    texts: dict[str, tuple[str, str]] = {}
    answers: dict[str, str] = {}
    for line, row in rows:
        name = row["id"]
        human[name].append(_score(row["human"], path=path, line=line))
        if "judge" in columns:
            given = (row["judge"] or "").strip()
            judge[name] = _score(given, path=path, line=line) if given else None
        texts[name] = (row.get("response") or "", row.get("reference") or "")
        mark = row.get("answer") or answers.get(name, "")
        if answers.setdefault(name, mark) != mark:
            raise EvalDataError(
                f"{path}, line {line}: item {name!r} was scored with another answer before; one file per run"
            )
    return Labels(
        {name: sum(scores) / len(scores) for name, scores in human.items()},
        judge if "judge" in columns else None,
        texts if {"response", "reference"} <= set(columns) else None,
        {name: mark for name, mark in answers.items() if mark},
    )


@dataclass(frozen=True)
class Session:
    """Where a person labels, and through what."""

    path: Path
    """The file that is added to."""
    rater: str
    """Who labels."""
    ask: Callable[[str], str]
    """Puts a question and gives the line that was typed; raises EOFError at the end of input."""
    show: Callable[[str], None]
    """Shows a text."""


def label_items(rows: Sequence[Mapping[str, Any]], session: Session, *, seed: int, limit: int | None = None) -> int:
    """Have a person score what the rater has not scored yet, until all are, or ``q`` or the end of input.

    Args:
        rows: items with ``id``, ``instruction``, ``input``, ``reference`` and ``response``.
        session: where and through what.
        seed: of the order and of the draw; the same seed continues with the same draw.
        limit: how many items, drawn at random; by default all.

    Returns:
        how many of these items the rater has scored by now.

    Raises:
        EvalDataError: the file exists and is not a file of labels, or has scores of other answers.
    """
    drawn = list(rows)
    random.Random(f"{seed} labels").shuffle(drawn)
    drawn = drawn[:limit]
    known = _read_scored(session, {str(row["id"]): answer_mark(row["response"]) for row in rows})
    waiting = [row for row in drawn if str(row["id"]) not in known]
    done = len(drawn) - len(waiting)
    session.show(f"{len(waiting)} of {len(drawn)} items to score as {session.rater}. {_HELP}")
    for row in waiting:
        session.show(_format_item(row, done=done, total=len(drawn)))
        score = _ask_score(session)
        if score == _QUIT:
            break
        if score != _SKIP:
            _append(session, [str(row["id"]), score, session.rater, answer_mark(row["response"])])
            done += 1
    return done


_HELP = (
    "100 same facts as the reference, 80 minor flaw, 60 one real error, 40 main point wrong, 20 on topic but wrong,"
    " 0 empty or off topic; any whole number between. s skips, q stops: the same command resumes."
)


def _format_item(row: Mapping[str, Any], *, done: int, total: int) -> str:
    parts = [("Task", row["instruction"]), ("Input", row.get("input", "")), ("Reference", row["reference"])]
    parts += [("Answer", row["response"])]
    # what a model wrote must not steer the terminal
    texts = [(title, neutralise(str(text)).text.strip()) for title, text in parts]
    shown = "\n".join(f"{title}:\n{text or '(empty)'}\n" for title, text in texts if text or title == "Answer")
    return f"\n--- {done + 1} of {total} ---\n{shown}"


def _ask_score(session: Session) -> str:
    while True:
        try:
            given = session.ask("score 0-100, s or q: ").strip().lower()
        except EOFError:
            return _QUIT
        if given in (_SKIP, _QUIT):
            return given
        if given.isascii() and given.isdecimal() and MIN_SCORE <= int(given) <= MAX_SCORE:
            return str(int(given))
        session.show(f"expected a score of 0 to 100, s or q, got {given!r}. {_HELP}")


def _read_scored(session: Session, marks: Mapping[str, str]) -> set[str]:
    """The items that this rater has scored; refuses a file with scores of other answers."""
    if not session.path.is_file() or not session.path.stat().st_size:
        return set()
    with session.path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise EvalDataError(
                f"{session.path}: expected the columns {', '.join(COLUMNS)}, got "
                f"{', '.join(reader.fieldnames or ()) or 'none'}; name another file with --out"
            )
        rows = list(reader)
    foreign = [row["id"] for row in rows if marks.get(row["id"]) != row["answer"]]
    if foreign:
        raise EvalDataError(
            f"{session.path} has scores of other answers than these (item {foreign[0]!r} and {len(foreign) - 1} more),"
            " as of another run or model; name another file with --out"
        )
    return {row["id"] for row in rows if row["rater"] == session.rater}


def _append(session: Session, row: Iterable[str]) -> None:
    session.path.parent.mkdir(parents=True, exist_ok=True)
    with session.path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        if not file.tell():
            writer.writerow(COLUMNS)
        writer.writerow(row)
        file.flush()
        os.fsync(file.fileno())


def _score(text: str | None, *, path: Path, line: int) -> float:
    try:
        score = float(text or "")
    except ValueError:
        score = -1.0
    if not MIN_SCORE <= score <= MAX_SCORE:
        raise EvalDataError(
            f"{path}, line {line}: expected a score of {MIN_SCORE} to {MAX_SCORE}, got {text!r}; correct or remove "
            "the line"
        )
    return score
