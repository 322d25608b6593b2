"""Records: what rank 0 writes down of a run: its own history, its samples, and what a tracker is told."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gptcore.generate import Sampling, generate
from gptcore.models.base import Model
from gptcore.tokenizer import Tokenizer
from gptcore.train.logger import JsonlLogger, RunLogger


@dataclass(frozen=True)
class Records:
    """``metrics.jsonl``, ``samples.jsonl`` and the tracker; on other processes than the main one, nothing."""

    out: Path
    log: RunLogger
    main: bool

    def truncate(self, step: int) -> None:
        """Drop what was written after ``step``."""
        if self.main:
            JsonlLogger(self.out / "metrics.jsonl").truncate(step)
            JsonlLogger(self.out / "samples.jsonl").truncate(step)

    def add(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Add a line to the run's own history, if there is something to say."""
        if self.main and metrics:
            JsonlLogger(self.out / "metrics.jsonl").append(metrics, step=step)

    def tell(self, metrics: Mapping[str, float], *, step: int | None = None) -> None:
        """Tell the tracker; also what differs between two equal runs, such as speed."""
        if self.main:
            self.log.log_metrics(metrics, step=step)

    def sample(self, model: Model, tokenizer: Tokenizer, prompts: Sequence[str], *, step: int) -> None:
        """Continue each prompt greedily and keep the text."""
        for prompt in prompts:
            prompt_ids = tokenizer.encode(prompt) or [tokenizer.end_of_text]
            answer = generate(model, [prompt_ids], Sampling(max_new_tokens=40), end_token=tokenizer.end_of_text)
            line = {"step": step, "prompt": prompt, "text": tokenizer.decode(answer[0])}
            if self.main:
                with (self.out / "samples.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
