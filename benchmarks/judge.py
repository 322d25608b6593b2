"""Judging 1,000 items by a judge that takes 50 ms an answer: what a whole run adds to asking.

    python -m benchmarks.judge

The judge is the test server in a process of its own, so that only the wait for it is fixed. Ours is a whole run:
preflight, canary, controls among the items, log-probabilities, the store, the report; its seconds are divided by all
answers. Beside it the official client asks the same questions in a loop and keeps nothing: what HTTP and the server
itself cost.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measured import Measured, peak_rss_mb
from benchmarks.options import ROOT, Options, shared_parser
from benchmarks.sitting import main
from benchmarks.work import Implementation, Target, Work

if TYPE_CHECKING:
    from eval.types import Sample

DELAY = 0.05
"""Seconds an answer."""
ROWS = "rows.jsonl"


def build(options: Options) -> Work:
    """The work for these options."""
    return Work(
        name="judge",
        title=f"Judging: {options.steps} items, {DELAY * 1000:.0f} ms an answer, one at a time",
        unit="ms an answer",
        figure=lambda measured: 1000 * sum(measured.seconds) / sum(measured.items),
        implementations=(
            Implementation("ours", "`open_judge` and `judge_responses`, controls and store included", measure_ours),
            Implementation("bare", "`ollama.Client.chat` in a loop, streamed, the same questions", measure_bare),
        ),
        prepare=_prepare,
        targets=(Target("figure", 1.05, "bare", at_most=True),),
        notes=(
            "data: the book's instructions; each response is the output of another row, so that none is a short cut",
        ),
    )


def measure_ours(options: Options, folder: Path) -> Measured:
    """A whole run, from preflight to report."""
    from eval.judge.assemble import JudgeSpec, open_judge
    from eval.run import judge_responses

    samples, responses = _items(folder)
    with tempfile.TemporaryDirectory() as store, _server() as url:
        started = time.perf_counter()
        with open_judge(JudgeSpec(host=url), store=Path(store) / "answers.jsonl") as opened:
            report = judge_responses(samples, responses, judge=opened.build_pointwise(), seed=options.seed)
        seconds = time.perf_counter() - started
    assert report.controls is not None
    asked = [*report.rows, *report.controls.rows]
    if report.metrics["judge/cached"] or any(row["score"] is None or row["source"] != "judge" for row in asked):
        raise RuntimeError("a question was not answered by the judge, so that the time of the answers is not known")
    facts = {"items": len(report.rows), "controls": len(report.controls.rows), "ms beside the answer": 0.0}
    facts["ms beside the answer"] = round(1000 * (seconds / len(asked) - DELAY), 3)
    return Measured([seconds], [float(len(asked))], peak_rss_mb(), facts)


def measure_bare(options: Options, folder: Path) -> Measured:  # noqa: ARG001 - as of every implementation
    """The same questions by the official client."""
    import ollama

    from eval.judge.client import Options as JudgeOptions
    from eval.judge.prompt import load_prompts, render
    from eval.judge.schema import POINTWISE

    samples, responses = _items(folder)
    prompts = load_prompts("pointwise")
    questions = [
        render(prompts, sample=sample, answers={"answer": response}, max_answer_bytes=3000).messages
        for sample, response in zip(samples, responses, strict=True)
    ]
    with _server() as url:
        client = ollama.Client(url)
        started = time.perf_counter()
        for messages in questions:
            for _ in client.chat(
                "llama3",
                messages,
                stream=True,
                format=dict(POINTWISE.schema),
                options=asdict(JudgeOptions()),
                logprobs=True,
                top_logprobs=20,
            ):
                pass
        seconds = time.perf_counter() - started
    facts = {"items": len(questions), "ms beside the answer": round(1000 * (seconds / len(questions) - DELAY), 3)}
    return Measured([seconds], [float(len(questions))], peak_rss_mb(), facts)


@contextlib.contextmanager
def _server() -> Iterator[str]:
    """The address of the test server, which runs until the end."""
    command = [sys.executable, "-m", "flows", "fake-ollama", "--port", "0", "--delay", str(DELAY)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            found = re.search(r"http://\S+:\d+", line)
            if found is None:
                raise RuntimeError(f"the test server did not start: {line!r}")
            yield found[0]
        finally:
            process.send_signal(signal.SIGINT)


def _items(folder: Path) -> tuple[list[Sample], list[str]]:
    from eval.datasets import read_samples

    samples = read_samples(folder / ROWS)
    return samples, [sample.reference for sample in (*samples[1:], samples[0])]


def _prepare(options: Options, folder: Path) -> None:
    """The first rows of the book's instructions, no output twice in a row."""
    from benchmarks.prepare import real_file
    from gptcore.data.readers import read_rows
    from gptcore.files import write_text

    rows = read_rows(real_file("book-instructions"), required=("instruction", "output"), optional=("input",))
    different = {row["output"].casefold(): row for row in rows}.values()
    chosen = list(itertools.islice(different, options.steps))
    write_text(folder / ROWS, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen))


if __name__ == "__main__":
    main("benchmarks.judge", build, shared_parser(str(__doc__), steps=1000))
