"""The settings of the compress stage: which methods, how far, and what they may cost."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Literal

from gptcore.compress import Pattern, prunable_sizes
from gptcore.config import Config, nearest, require_at_least
from gptcore.errors import ConfigError
from gptcore.models import NetworkConfig
from gptcore.train import Cosine, OptimizerConfig, TrainConfig

STRUCTURE = ("student", "heads", "hidden", "depth")
"""Steps after which the matrices are smaller."""
TRAINING = ("tune", "distill")
"""Steps that train."""
ZEROS = ("magnitude", "wanda")
"""Steps that make single weights zero."""
CODES = ("bf16", "fp16", "int8", "int8-dynamic", "int4", "gptq", "nf4")
"""Steps that store the weights in fewer bits."""
STEPS = (*STRUCTURE, *TRAINING, *ZEROS, *CODES)
"""Every step of a method."""


@dataclass(frozen=True)
class CompressStage(Config):
    """Compression of the instruction-tuned model and of the classifier, with a table and a gate."""

    methods: tuple[str, ...] = ("int8", "int4")
    """What is tried: steps joined by +, as in ``gptq`` or ``depth+distill+int8``. Steps: student (a smaller model with
    random weights), heads, hidden, depth (pruned), tune, distill (trained), magnitude, wanda (zeros), bf16, fp16, int8,
    int8-dynamic, int4, gptq, nf4 (stored so)."""
    model: Literal["instruct", "base"] = "instruct"
    """Which language model; the base where none was instructed."""
    classifier: bool = True
    """Whether each method is applied to the classifier, too, and its accuracy measured."""
    group_size: int = 32
    """Inputs per scale at int4 and gptq."""
    block_size: int = 64
    """Inputs per scale at nf4."""
    calibration_samples: int = 128
    """Training samples whose activations gptq, wanda, heads, hidden and depth look at."""
    sparsity: float = 0.5
    """Share of zeros that magnitude and wanda make."""
    pattern: str | None = None
    """n:m, as in 2:4: of each m neighbouring inputs n stay; it overrides ``sparsity``."""
    heads_kept: float = 0.5
    """Share of the attention heads that heads keeps."""
    hidden_kept: float = 0.5
    """Share of the feed-forward layers' width that hidden keeps; rounded to 64 where that leaves some."""
    layers_kept: float = 0.5
    """Share of the blocks that depth and student keep."""
    width_kept: float = 0.5
    """Share of the width that student keeps."""
    temperature: float = 2.0
    """Of both models' logits in distill."""
    soft: float = 0.5
    """Share of the teacher in the loss of distill."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            optimizer=OptimizerConfig(lr=1e-3), schedule=Cosine(warmup=0.05, final=0.05), keep="last"
        )
    )
    """Training of tune and distill, on the data that the model was trained on."""
    max_increase_int8: float = 0.005
    """Largest relative increase of the held-out perplexity that int8, int8-dynamic, bf16 and fp16 may cost."""
    max_increase_int4: float = 0.12
    """The same for int4 and nf4."""
    max_increase_gptq: float = 0.08
    """The same for gptq."""
    max_increase_other: float | None = None
    """The same for every other method; none: they are reported, not judged."""
    speed_tokens: int = 64
    """Tokens generated to measure the speed."""

    def __post_init__(self) -> None:
        """Refuse what would be found out only after the model is trained."""
        require_at_least(self, group_size=1, block_size=2, calibration_samples=1, speed_tokens=1)
        if not self.methods:
            raise ConfigError(f"compress.methods: expected one or more of {', '.join(STEPS)}, got none")
        if len(set(self.methods)) < len(self.methods):
            raise ConfigError(f"compress.methods: expected each method once, got {', '.join(self.methods)}")
        for method in self.methods:
            _check(method)
        for name in ("heads_kept", "hidden_kept", "layers_kept", "width_kept"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise ConfigError(f"compress.{name}: expected a number between 0 and 1, got {getattr(self, name)}")
        if not self.temperature > 0:
            raise ConfigError(f"compress.temperature: expected a number above 0, got {self.temperature}")
        if not 0.0 <= self.soft <= 1.0:
            raise ConfigError(f"compress.soft: expected 0 to 1, got {self.soft}")
        self.zeros()

    def check_model(self, model: NetworkConfig) -> None:
        """Refuse methods that a model cannot have, before it is trained.

        Raises:
            ConfigError: a method prunes, and the model's family cannot be pruned.
        """
        pruning = [each for each in self.methods if {*STRUCTURE, *ZEROS}.intersection(each.split("+"))]
        if not pruning:
            return
        try:
            prunable_sizes(model)
        except ConfigError as error:
            raise ConfigError(
                f"compress.methods has {', '.join(pruning)}, and pretrain.model is a {type(model).__name__}: {error}. "
                "Name other methods, as by --set compress.methods=int8,int4"
            ) from error

    def zeros(self) -> Pattern:
        """Which weights magnitude and wanda drop.

        Raises:
            ConfigError: sparsity or pattern cannot be.
        """
        if self.pattern is None:
            return Pattern(self.sparsity)
        keep, colon, of = self.pattern.partition(":")
        if not (colon and keep.isdigit() and of.isdigit()):
            raise ConfigError(f"compress.pattern: expected the form n:m, as in 2:4, got {self.pattern!r}")
        return Pattern(self.sparsity, keep=int(keep), of=int(of))

    def gate(self, method: str) -> float | None:
        """The largest relative increase of the perplexity that a method may cost; None if it is only reported."""
        gates = {
            "int8": self.max_increase_int8,
            "int8-dynamic": self.max_increase_int8,
            "bf16": self.max_increase_int8,
            "fp16": self.max_increase_int8,
            "int4": self.max_increase_int4,
            "nf4": self.max_increase_int4,
            "gptq": self.max_increase_gptq,
        }
        return gates.get(method, self.max_increase_other)

    @property
    def n_trainings(self) -> int:
        """How often one model is trained: methods that begin alike share what they begin with."""
        return sum(steps[-1] in TRAINING for steps in beginnings(self.methods))


def beginnings(methods: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Every beginning of every method once, shorter ones first in each: what has to be made, in an order to make it."""
    found: dict[tuple[str, ...], None] = {}
    for method in methods:
        steps = tuple(method.split("+"))
        for n in range(1, len(steps) + 1):
            found[steps[:n]] = None
    return list(found)


def _check(method: str) -> None:
    steps = method.split("+")
    for step in steps:
        if step not in STEPS:
            raise ConfigError(f"compress.methods has the step {step!r}, which does not exist{nearest(step, STEPS)}")
    where = f"compress.methods has {method!r}"
    for before, after in itertools.pairwise(steps):
        if before in CODES:
            raise ConfigError(f"{where}: nothing can follow {before}, whose weights cannot be changed any more")
        if before in ZEROS and after not in CODES:
            raise ConfigError(
                f"{where}: after {before} only a way to store it may follow; {after} would fill the zeros"
            )
        if before in ZEROS and after in ("int4", "gptq"):
            raise ConfigError(f"{where}: {after} has no code for zero and would move the zeros; int8 and nf4 have one")
    if "student" in steps[1:]:
        raise ConfigError(f"{where}: student begins with random weights, so it must come first")
    if steps[0] == "student" and (len(steps) < 2 or steps[1] not in TRAINING):
        raise ConfigError(f"{where}: student has random weights; tune or distill must follow it")
