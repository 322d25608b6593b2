"""Instruction tuning as transformers' and trl's users have it: shuffled rows, padded to the longest of each batch.

The prompts are masked, so that the same response tokens are targets as in ours.

Shapes: B rows, T positions.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from benchmarks.measured import Measured, peak_rss_mb, timed_steps
from benchmarks.options import Options
from benchmarks.peers.causal_lm import Sizes, gpt2
from benchmarks.peers.loop import CLIP, LEARNING_RATE, WEIGHT_DECAY, adamw, facts_of, update
from benchmarks.prepare import read_plan

IGNORED, END_OF_TEXT = -100, 50256


def measure_loop(options: Options, folder: Path, *, sizes: Sizes) -> Measured:
    """A plain loop: transformers' GPT-2 with its own loss, ``torch.optim.AdamW``."""
    plan, model = read_plan(folder), gpt2(sizes, context_length=1024)
    optimizer = adamw(model.parameters(), kind=options.peer_optimizer)
    order = shuffled(plan, seed=options.seed)
    batches = [order[i : i + sizes.batch_size] for i in range(0, len(order), sizes.batch_size)]

    def step(number: int) -> float:
        inputs = _padded([plan["rows"][i] for i in batches[number]])
        update(model(**inputs, use_cache=False).loss, model, optimizer)
        return _n_targets(inputs["labels"])

    n_warm = len(plan["warmup"]) // sizes.batch_size
    facts = facts_of(model, optimizer=f"AdamW, {options.peer_optimizer}")
    return timed_steps(step, warmup=n_warm, n_steps=len(batches) - n_warm, facts=facts)


def shuffled(plan: dict[str, Any], *, seed: int) -> list[int]:
    """Numbers of the rows: those that are not counted, then the others in random order."""
    counted = plan["counted"]
    order = torch.randperm(len(counted), generator=torch.Generator().manual_seed(seed))
    return [*plan["warmup"], *(counted[i] for i in order.tolist())]


def _padded(rows: Sequence[dict[str, list[int]]]) -> dict[str, Tensor]:
    tokens = [torch.tensor(row["prompt"] + row["response"]) for row in rows]
    labels = [torch.tensor([IGNORED] * len(row["prompt"]) + row["response"]) for row in rows]
    return {
        "input_ids": pad_sequence(tokens, batch_first=True, padding_value=END_OF_TEXT),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in tokens], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }


def _n_targets(labels: Tensor) -> int:
    return int((labels[:, 1:] != IGNORED).sum())


def measure_trl(options: Options, folder: Path, *, sizes: Sizes) -> Measured:
    """trl's SFTTrainer with its defaults, but fp32 and without activation checkpointing, which would slow it down."""
    import datasets
    import transformers
    import trl

    class InOrder(trl.SFTTrainer):  # type: ignore[misc, name-defined, unused-ignore]
        """Takes the rows in the order they have: what is not counted first, the rest is shuffled already."""

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return torch.utils.data.SequentialSampler(train_dataset or self.train_dataset)

    plan, model = read_plan(folder), gpt2(sizes, context_length=1024)
    rows = [plan["rows"][i] for i in shuffled(plan, seed=options.seed)]
    n_steps = len(rows) // sizes.batch_size
    columns = {
        "input_ids": [row["prompt"] + row["response"] for row in rows],
        "completion_mask": [[0] * len(row["prompt"]) + [1] * len(row["response"]) for row in rows],
    }
    end = "<|endoftext|>"
    tokenizer = transformers.GPT2Tokenizer(
        str(folder / "hf" / "vocab.json"), str(folder / "hf" / "merges.txt"), eos_token=end, pad_token=end
    )
    with tempfile.TemporaryDirectory(prefix="gptworks-bench-trl-") as out:
        trainer = InOrder(
            model=model,
            args=_trl_config(out, sizes=sizes, n_steps=n_steps, seed=options.seed),
            train_dataset=datasets.Dataset.from_dict(columns),
            processing_class=tokenizer,
        )
        n_warm = len(plan["warmup"]) // sizes.batch_size
        clock = _clock(n_warm)
        trainer.add_callback(clock)
        targets = _counting(trainer)
        trainer.train()
    facts = facts_of(model, optimizer=str(trainer.args.optim), trl=trl.__version__)
    return Measured(clock.seconds, targets[n_warm:n_steps], clock.peak_rss_mb, facts)


def _trl_config(out: str, *, sizes: Sizes, n_steps: int, seed: int) -> Any:
    import trl

    return trl.SFTConfig(
        output_dir=out,
        max_steps=n_steps,
        per_device_train_batch_size=sizes.batch_size,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=CLIP,
        completion_only_loss=True,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=seed,
    )


def _clock(n_warm: int) -> Any:
    """A callback that times steps from the end of one to the end of the next."""
    import transformers

    class Clock(transformers.TrainerCallback):
        def __init__(self) -> None:
            self.ends: list[float] = []
            self.peak_rss_mb = 0.0

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            del args, kwargs
            self.ends.append(time.perf_counter())
            self.peak_rss_mb = peak_rss_mb()

        @property
        def seconds(self) -> list[float]:
            ends = self.ends[n_warm - 1 :]
            return [end - begin for begin, end in itertools.pairwise(ends)]

    return Clock()


def _counting(trainer: Any) -> list[float]:
    """Let the trainer's own collator count the targets of each batch it makes; batches are made in their order."""
    targets: list[float] = []
    collate = trainer.data_collator

    def counted(rows: Any) -> Any:
        batch = collate(rows)
        targets.append(_n_targets(batch["labels"]))
        return batch

    trainer.data_collator = counted
    return targets
