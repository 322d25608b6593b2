"""Records: what rank 0 records of a run: its own history, its samples, and what is sent to a tracker."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gptcore.files import disk_errors, sync
from gptcore.generation import Generator, Request, Sampling
from gptcore.models.network import Network
from gptcore.tokenizer import Tokenizer
from gptcore.train.logger import JsonlLogger, RunLogger

logger = logging.getLogger(__name__)
_METRICS, _SAMPLES = "metrics.jsonl", "samples.jsonl"


def count_bytes(out: Path) -> dict[str, int]:
    """Bytes of each record until now: a position holds them, and what came later is dropped when a run returns to it.

    By bytes, not by the steps in the lines: a step may have a line from before a rollback to it and one from after.
    """
    return {path.name: path.stat().st_size for path in _files(out) if path.exists()}


def flush(out: Path) -> None:
    """Put the records on the disk, before a position that counts on them."""
    for path in _files(out):
        if path.exists():
            sync(path)


def _files(out: Path) -> tuple[Path, Path]:
    return out / _METRICS, out / _SAMPLES


@dataclass(frozen=True)
class Records:
    """``metrics.jsonl``, ``samples.jsonl`` and the tracker; on other processes than the main one, nothing."""

    out: Path
    log: RunLogger
    main: bool

    def restore(self, sizes: Mapping[str, int]) -> None:
        """Cut each record back to the bytes that ``count_bytes`` found, by default to nothing."""
        if not self.main:
            return
        for path in _files(self.out):
            path.touch()
            size, wanted = path.stat().st_size, sizes.get(path.name, 0)
            if size < wanted:
                logger.warning("%s has %d bytes, but had %d at this step: lines are lost", path, size, wanted)
                wanted = path.read_bytes().rfind(b"\n") + 1
            os.truncate(path, wanted)

    def add(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Add a line to the run's own history, if there is something to say."""
        if self.main and metrics:
            with disk_errors(self.out / _METRICS):
                JsonlLogger(self.out / _METRICS).append(metrics, step=step)

    def track(self, metrics: Mapping[str, float], *, step: int | None = None) -> None:
        """Send metrics to the tracker; also what differs between two equal runs, such as speed."""
        if self.main:
            self.log.log_metrics(metrics, step=step)

    def sample(self, model: Network, tokenizer: Tokenizer, prompts: Sequence[str], *, step: int) -> None:
        """Continue each prompt greedily and keep the text.

        Raises:
            ConfigError: there are prompts, but the model cannot generate.
        """
        for prompt in prompts:
            prompt_ids = tokenizer.encode(prompt) or [tokenizer.end_of_text]
            request = Request(prompt_ids, Sampling(max_new_tokens=40), end_token=tokenizer.end_of_text)
            answer = Generator(model, tokenizer=tokenizer, slots=1).generate([request])[0]
            line = {"step": step, "prompt": prompt, "text": answer.text}
            if self.main:
                with disk_errors(self.out / _SAMPLES), (self.out / _SAMPLES).open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
