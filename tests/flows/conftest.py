"""A whole pipeline run in small, as the stages write it, for the report page; and runs judged by the fake server."""

from __future__ import annotations

import functools
import json
import math
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from eval.testing.fake_ollama import FakeOllama
from flows.cli.entry import main
from flows.recipes.resolve import resolve
from flows.settings import read_settings
from flows.sources.base import Places
from flows.sources.catalogue import DATA_SETS
from flows.stages.context import Context, Inputs
from flows.stages.evaluate import body as evaluation
from flows.stages.evaluate.recipe import EvaluateStage
from flows.stages.evaluate.result import EvaluateResult
from flows.stages.every import STAGES
from flows.stages.lora.result import LoraResult
from flows.stages.outcome import Outcome, PipelineReport
from flows.tracking.store import connect
from gptcore.data.ledger import Ledger
from gptcore.locking import hold
from gptcore.train import Progress

HOSTILE = "<script>alert('x')</script> & <b>bold</b> \u2028 second line"
LABELS = ("matplotlib", "numpy", "pandas", "scipy", "sklearn", "sqlalchemy", "stdlib", "$x$ <i>")
JUDGE_SKIPPED = {
    "state": "skipped",
    "reason": "no Ollama at http://127.0.0.1:11434 (refused); start it: ollama serve (or name another server)",
}
MakeReport = Callable[..., PipelineReport]
Judged = tuple[EvaluateResult, Any, Path]
Told = Callable[..., str]


class Listener(ThreadingHTTPServer):
    """Keeps the JSON that it is sent, and answers each time with the next status, in the end with the last one."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses, self.got = [200], list[Any]()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Listener

    def do_POST(self) -> None:
        self.server.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        statuses = self.server.statuses
        self.send_response(statuses.pop(0) if len(statuses) > 1 else statuses[0])
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_PATCH(self) -> None:
        self.do_POST()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        del code, size


@pytest.fixture
def listener() -> Iterator[Listener]:
    """A server on a real socket that says nothing but a status."""
    with Listener() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """Runs a command in this process; gives everything that it prints, its white space made even."""

    def run(*arguments: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        printed = capsys.readouterr()
        text = " ".join(re.sub(r"[│╭╰╮╯─┃┏┗┓┛━┡┩╇┳┴┬┼└┘]", " ", printed.out + printed.err).split())
        assert (end.value.code or 0) == code, text
        assert "Traceback" not in text
        return text

    return run


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_ledger(path: Path, split: str, *, kept: int, dropped: int, cut: int) -> None:
    ledger = Ledger()
    for outcome, n in (("in", kept + dropped), ("kept", kept)):
        ledger.count("encode", outcome, n=n, split=split)
    for outcome, n, reason in (("dropped", dropped, "fully_masked"), ("cut", cut, "longer than the context")):
        ledger.count("encode", outcome, n=n, split=split, reason=reason)
    path.parent.mkdir(parents=True, exist_ok=True)
    ledger.save(path)


def write_history(path: Path, *, steps: int, start: float, end: float) -> None:
    def loss(step: int) -> float:
        return end + (start - end) * math.exp(-5 * step / steps)

    lines: list[dict[str, Any]] = [
        {"step": step, "train/loss": loss(step) + 0.08 * math.sin(step)} for step in range(10, steps + 1, 10)
    ]
    lines += [{"step": step, "val/loss": loss(step) + 0.1} for step in range(100, steps + 1, 100)]
    write_lines(path, sorted(lines, key=lambda line: int(line["step"])))


def answer_rows(n: int) -> list[dict[str, Any]]:
    return [
        {
            "instruction": f"Explain what `numpy.function_{i}` does.",
            "input": "numpy.function(a, axis=None, dtype=None)" if i % 3 == 0 else "",
            "output": f"Return number {i} along the given axis, as a new array of the same shape.",
            "base": "the the of array " * 8 if i % 4 else "",
            "response": HOSTILE if i == 0 else f"Return number {i} along an axis.",
        }
        for i in range(n)
    ]


def score_rows(rows: Sequence[dict[str, Any]], *, judged: bool) -> list[dict[str, Any]]:
    return [
        {
            "id": str(i),
            "reference": row["output"],
            **{key: row[key] for key in ("instruction", "input", "base", "response")},
            "rouge_l": 1 - i / len(rows),
            "exact": i == 1,
            "judge_score": 90 - i if judged and i != 2 else None,
            "judge_reason": "timeout" if judged and i == 2 else "" if judged else "skipped",
            "judge_rationale": "Names the axis, misses the shape." if judged else "",
        }
        for i, row in enumerate(rows)
    ]


def prepare(folder: Path) -> dict[str, Any]:
    ledger = Ledger()
    ledger.count("corpus: clean", "in", n=27_412, unit="documents")
    ledger.count("corpus: clean", "kept", n=24_019, unit="documents")
    ledger.count("corpus: clean", "dropped", n=2_891, reason="near duplicate", unit="documents")
    ledger.count("corpus: clean", "dropped", n=502, reason="too short", unit="documents")
    ledger.save(folder / "ledger.json")
    rows = {"train": 7680, "val": 960, "test": 960}
    return {
        "parts": {
            "classify": {"rows": rows, "train_chars": 2_000_000, "leaks": 3, "labels": list(LABELS)},
            "instruct": {"rows": rows, "train_chars": 1_000_000},
        },
        "tokenizer": "bpe-4096",
        "tokenizer_digest": "0" * 64,
        "vocab_size": 4096,
        "tokens": {"train": 1_234_567, "val": 150_001},
        "metrics": {},
    }


def pretrain(folder: Path) -> dict[str, Any]:
    write_history(folder / "run/metrics.jsonl", steps=4000, start=8.3, end=3.4)
    samples = [
        {"step": step, "prompt": prompt, "text": f" the array of the <array> at {step}\n    is returned."}
        for step in range(100, 900, 100)
        for prompt in ("function numpy.", "Return the")
    ]
    model = {"n_parameters": 1_234_500, "n_layers": 4, "n_heads": 2, "width": 96, "context_length": 160}
    metrics = {"val/loss": 3.412, "val/perplexity": 30.3, "val/bits_per_byte": 1.431}
    return {"checkpoint": "run/checkpoint", "model": model, "samples": samples, "metrics": metrics}


def classify(folder: Path) -> dict[str, Any]:
    write_history(folder / "run/metrics.jsonl", steps=900, start=2.1, end=0.5)
    write_ledger(folder / "run/ledger.json", "train", kept=7680, dropped=0, cut=311)
    confusion = [[100 if i == j else (i * 3 + j) % 5 for j in range(8)] for i in range(8)]
    metrics = {"test/accuracy": 0.853, "test/macro_f1": 0.847, "baseline/tfidf_accuracy": 0.861, "val/loss": 0.61}
    weights(folder / "run/checkpoint", 3_400_000)
    return {"checkpoint": "run/checkpoint", "labels": list(LABELS), "confusion": confusion, "metrics": metrics}


def weights(folder: Path, n_bytes: int) -> None:
    folder.mkdir(parents=True)
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(n_bytes)


def instruct(folder: Path, n: int) -> dict[str, Any]:
    write_history(folder / "run/metrics.jsonl", steps=1200, start=3.3, end=1.2)
    write_ledger(folder / "run/ledger.json", "train", kept=5000, dropped=2, cut=40)
    write_lines(folder / "responses.jsonl", answer_rows(n))
    weights(folder / "run/checkpoint", 3_400_000)
    metrics = {"val/loss": 1.24, "val/perplexity": 3.46}
    return {"checkpoint": "run/checkpoint", "responses": "responses.jsonl", "metrics": metrics}


def lora(folder: Path) -> dict[str, Any]:
    tasks: dict[str, Any] = {}
    for task, measured in (
        ("classify", {"test/accuracy": 0.841, "test/macro_f1": 0.838, "val/loss": 0.64}),
        ("instruct", {"val/loss": 1.31, "val/perplexity": 3.71}),
    ):
        write_history(folder / task / "metrics.jsonl", steps=500, start=2.5, end=0.9)
        weights(folder / task / "adapter", 84_000)
        places = {"checkpoint": f"{task}/checkpoint", "adapter": f"{task}/adapter"}
        tasks[task] = {"metrics": measured, "trained_share": 0.0421, **places}
    metrics = {f"{task}/{name}": value for task, facts in tasks.items() for name, value in facts["metrics"].items()}
    return {"tasks": tasks, "metrics": metrics}


def compress() -> dict[str, Any]:
    rows = (
        ("fp32", 3_400_000, 0.0, None, 0.98),
        ("int8", 1_020_000, 0.0012, 0.005, 0.98),
        ("int4", 680_000, 0.131, 0.12, 0.97),
    )
    variants = [
        {
            "name": name,
            "bytes": size,
            **{"loss": 3.41 + increase, "perplexity": 30.3 * (1 + increase)},
            "increase": increase,
            **{"gate": gate, "passed": gate is None or increase <= gate},
            **{"kl": increase, "kl_p99": 2 * increase},
            "same_top": 1 - (increase + 0.0005),
            "accuracy": accuracy,
            **{"tokens_per_second": 812.4, "tokens_per_second_32": 9120.0, "tokens_per_second_spread": 3.1},
            **{"memory_bytes": size, "n_parameters": 850_000, "zeros": 0.0},
        }
        for name, size, increase, gate, accuracy in rows
    ]
    measured_on = "the answers to the held-out instructions"
    return {"parent": "finetune-instruct", "measured_on": measured_on, "variants": variants, "metrics": {}}


def evaluate(folder: Path, n: int, judge: dict[str, Any]) -> dict[str, Any]:
    write_lines(folder / "scores.jsonl", score_rows(answer_rows(n), judged=judge["state"] == "scored"))
    per_model = {"base/": 0.061, "": 0.412, "lora/": 0.397}
    scales = {"rouge_l": 1.0, "exact_match": 0.1, "chrf": 100.0, "empty": 0.0}
    metrics = {f"{p}test/{name}": value * by for p, value in per_model.items() for name, by in scales.items()}
    return {"judge": judge, "metrics": metrics}


@pytest.fixture(scope="session")
def make_report(tmp_path_factory: pytest.TempPathFactory) -> MakeReport:
    """Builds the stage folders and the report value; ``only`` and ``without`` choose stages."""

    def make(
        *,
        only: Sequence[str] | None = None,
        without: Sequence[str] = (),
        judge: dict[str, Any] | None = None,
        n_responses: int = 30,
    ) -> PipelineReport:
        bodies: dict[str, Callable[[Path], dict[str, Any]]] = {
            "prepare-data": prepare,
            "pretrain": pretrain,
            "finetune-classifier": classify,
            "finetune-instruct": lambda folder: instruct(folder, n_responses),
            "lora": lora,
            "compress": lambda _: compress(),
            "evaluate": lambda folder: evaluate(folder, n_responses, judge or JUDGE_SKIPPED),
        }
        store, stages = tmp_path_factory.mktemp("store"), []
        for i, (name, body) in enumerate(bodies.items()):
            if name in without or (only is not None and name not in only):
                continue
            folder = store / name / f"{i:016x}"
            folder.mkdir(parents=True)
            run_id = f"{i}b6c7d8e9f0a1b2c"
            url = f"http://127.0.0.1:5000/#/runs/{run_id}"
            result = STAGES[name].result.from_dict(body(folder))
            stages.append(Outcome(name, folder.name, folder, result, 12.3 + 40 * i, i == 1, run_id, url))
        return PipelineReport(
            preset="demo",
            key="0123456789abcdef",
            started=datetime(2025, 3, 1, 12, 30, tzinfo=UTC),
            seconds=431.7,
            config=resolve("demo").to_dict(),
            sources={"numpy": "2.3.1", "sms-spam": DATA_SETS["sms-spam"].sha256, "the-verdict": "0" * 64},
            stages=tuple(stages),
            environment={"gptworks.python": "3.11.9", "gptworks.version.torch": "2.13.0", "gptworks.cpu_count": "2"},
        )

    return make


def told_of(i: int) -> str:
    words = ("red", "green", "blue", "round", "flat", "heavy", "light", "old", "new", "small", "large", "warm", "cold")
    return " ".join(words[(i * step + step) % len(words)] for step in (1, 3, 5, 7)) + f" thing{i}"


def responses_to_judge(n: int) -> list[dict[str, str]]:
    """Every third answer right, the others in part; those of the base model are all beside the point."""
    rows = []
    for i in range(n):
        right = told_of(i)
        answer = right if i % 3 == 0 else f"{right.split()[0]} {right.split()[1]} something{i}"
        rows.append({"instruction": f"Tell of thing {i}.", "output": right, "base": f"nothing {i}", "response": answer})
    return rows


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables in an SQLite file, and nothing in them; made once for all workers, since it takes seconds."""
    folder = tmp_path_factory.getbasetemp()
    home = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "empty-store"
    settings = read_settings({"GPTWORKS_HOME": str(home)})
    with hold(home / "making.lock"):
        connect(settings)
    return home / "mlflow.db"


@pytest.fixture(scope="module")
def tracked_home(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project folder of a module's tests, with an empty tracking store in it."""
    home = tmp_path_factory.mktemp("home")
    shutil.copy(empty_store, home)
    return home


@pytest.fixture(scope="session")
def judge_home(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project folder of all judged runs."""
    home = tmp_path_factory.mktemp("judged") / "var"
    home.mkdir()
    shutil.copy(empty_store, home)
    return home


def judge_in(place: Path, judge_home: Path) -> Callable[..., Judged]:
    """Runs the evaluate stage against a judge's server, as often as it is called; answers are kept in the place."""
    from flows.tracking.runs import stage_run

    settings = read_settings({"GPTWORKS_HOME": str(judge_home)})

    def run(
        server: FakeOllama, *, n: int = 24, lora: bool = False, state: dict[str, str] | None = None, **options: Any
    ) -> Judged:
        folder = place / "out" / f"{len(list(place.glob('out/*')))}"
        write_lines(folder / "finetune-instruct" / "responses.jsonl", responses_to_judge(n))
        folders = {"finetune-instruct": folder / "finetune-instruct"} | ({"lora": folder / "lora"} if lora else {})
        write_lines(folder / "lora" / "responses.jsonl", [{"response": told_of(i)[: 9 + i]} for i in range(n)])
        adapted = LoraResult(tasks={}, responses="responses.jsonl", metrics={})
        inputs = Inputs(folders, {"lora": adapted} if lora else {})
        config, told = EvaluateStage(**options), list[Progress]()
        with stage_run(
            settings, stage="evaluate", name="evaluate", key=f"{place.name}-{folder.name}", params={}
        ) as log:
            context = Context(folder, Places(None, place / "cache"), log, told.append, 1, server.url)
            found = evaluation.judge_state(config, server.url) if state is None else state
            result = evaluation.evaluate(config, found, inputs, context)
        assert [one.step for one in told] == list(range(1, len(told) + 1))
        assert {one.n_steps for one in told} <= {len(told)}
        return result, connect(settings).get_run(log.run_id), folder

    return run


@pytest.fixture
def judged(judge_home: Path, tmp_path: Path) -> Callable[..., Judged]:
    """Runs the evaluate stage against a judge's server; nothing is remembered of other tests."""
    return judge_in(tmp_path, judge_home)


@pytest.fixture(scope="session")
def judged_well(judge_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Judged]:
    """What a sound judge says of two models, or of those that are named: asked once, and not to be changed."""

    @functools.cache
    def run(*models: str) -> Judged:
        options = {"lora": True, "judge_models": models} if models else {}
        with FakeOllama() as server:
            return judge_in(tmp_path_factory.mktemp("judged"), judge_home)(server, **options)

    return run
