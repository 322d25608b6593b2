"""The count: a note for each answer, so that an interrupted count goes on."""

from __future__ import annotations

import os
import signal

from house_letters.recipe import LettersStage
from house_letters.result import LettersResult

from flows.stages.context import Context, Inputs
from flows.stages.instruct.result import InstructResult
from flows.stages.pipeline import Pipeline
from gptcore.files import read_json_lines, write_text
from gptcore.train import Progress


def run(pipeline: Pipeline, inputs: Inputs, context: Context) -> LettersResult:
    """Count; killed by the first answer where HOUSE_LETTERS_KILL names a file that is not there yet."""
    settings = pipeline.recipe("letters")
    assert isinstance(settings, LettersStage)
    rows = read_json_lines(inputs.path(InstructResult.stage, inputs.get(InstructResult).responses))
    found = 0
    for i, row in enumerate(rows):
        note = context.folder / f"{i}.txt"
        resumed = note.exists()
        write_text(note, str(row["response"].count(settings.letter)))
        found += int(note.read_text())
        context.on_progress(Progress(i + 1, len(rows), {}))
        if os.environ.get("HOUSE_LETTERS_KILL") and not resumed:
            os.kill(os.getpid(), signal.SIGKILL)
    context.log.set_tags({"letters.letter": settings.letter})
    return LettersResult(letter=settings.letter, metrics={"letters/count": float(found), "letters/rows": len(rows)})
