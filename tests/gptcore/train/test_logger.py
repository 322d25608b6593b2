"""The run's own history and the loggers in memory."""

from __future__ import annotations

from pathlib import Path

from gptcore.train import JsonlLogger, MemoryLogger
from gptcore.train.logger import PrefixedLogger, read_history


def test_lines_come_back_as_they_were_written(tmp_path: Path) -> None:
    log = JsonlLogger(tmp_path / "metrics.jsonl")
    log.append({"train/loss": 1.5}, step=2)
    log.append({"val/loss": float("inf")}, step=4)
    assert read_history(log.path) == [{"step": 2, "train/loss": 1.5}, {"step": 4, "val/loss": float("inf")}]
    assert read_history(tmp_path / "nowhere") == []


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    log = JsonlLogger(tmp_path / "metrics.jsonl")
    for step in (1, 2):
        log.append({"a": step}, step=step)
    with log.path.open("a", encoding="utf-8") as file:
        file.write('{"step": 3, "a"')
    assert [line["step"] for line in read_history(log.path)] == [1, 2]


def test_memory_keeps_everything_in_order(tmp_path: Path) -> None:
    log = MemoryLogger()
    log.log_params({"a": 1})
    log.log_params({"b": 2})
    log.log_metrics({"loss": 3.0}, step=1)
    log.log_metrics({"other": 0.0}, step=1)
    log.log_metrics({"loss": 2.0}, step=2)
    log.log_metrics({"loss": 1.0})
    log.log_artifact(tmp_path, "figures")
    assert log.params == {"a": 1, "b": 2}
    assert log.series("loss") == [(1, 3.0), (2, 2.0), (None, 1.0)]
    assert log.artifacts == [(tmp_path, "figures")]


def test_a_prefix_stands_before_every_name(tmp_path: Path) -> None:
    inner = MemoryLogger()
    log = PrefixedLogger(inner, "lora")
    log.log_params({"rank": 4})
    log.log_metrics({"val/loss": 1.0}, step=3)
    log.log_artifact(tmp_path)
    log.log_artifact(tmp_path, "x")
    assert inner.params == {"lora/rank": 4}
    assert inner.metrics == [(3, {"lora/val/loss": 1.0})]
    assert [folder for _, folder in inner.artifacts] == ["lora", "lora/x"]
