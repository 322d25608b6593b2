"""What a pipeline run consists of, as one frozen value, and the named presets.

Every field can be set from the command line by its dotted path: ``--set pretrain.train.epochs=2``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Literal, cast

from flows.compress_recipe import CompressStage
from flows.sources import Book, Demo, Files, SourceConfig
from gptcore.config import Config, at_least, nearest, set_by_path
from gptcore.data.templates import template_by_name
from gptcore.errors import ConfigError
from gptcore.models import PRESETS, GPTConfig, ModelConfig
from gptcore.nn.surgery import named_linears
from gptcore.readers import LongInputs
from gptcore.train import Cosine, OptimizerConfig, TrainConfig
from gptcore.transforms import NF4, Dropout, LoRA

STAGES = ("prepare", "pretrain", "classify", "instruct", "lora", "compress", "evaluate")
"""The stages in their order."""
TRAININGS = ("pretrain.train", "classify.train", "instruct.train", "lora.classify", "lora.instruct", "compress.train")
"""Paths of every ``TrainConfig`` of a chain."""
OPTIMIZERS = {"adamw": "OptimizerConfig", "muon": "Muon"}
"""Names on the command line and kinds."""


@dataclass(frozen=True)
class PrepareStage(Config):
    """From sources to token shards and row files."""

    source: SourceConfig = field(default_factory=Demo)
    """Where texts and rows come from."""
    tokenizer: str = "bpe"
    """``bpe`` (byte-level, trained on the training texts), ``gpt2``, or what ``pretrain.init`` takes: its tokenizer."""
    vocab_size: int = 4096
    """Tokens of a trained BPE."""
    tokenizer_bytes: int = 1 << 25
    """Of a larger corpus (32 MiB) a BPE is trained on about so much, a fixed choice of its documents."""
    special_tokens: tuple[str, ...] = ()
    """Further special tokens, as a prompt template may need them."""
    min_chars: int = 40
    """Shorter documents are dropped."""
    near_duplicates: float | None = 0.8
    """Jaccard similarity from which two texts or rows count as one; none: only equal ones do, for the split as well."""
    balance: bool = False
    """Drop rows of larger classes until all are as large as the smallest (the book's way)."""
    corpus_split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of the documents for training, the held-out loss, and neither (kept unseen for the tests of the rows)."""
    classify_split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of training, validation and test rows for classification."""
    instruct_split: tuple[float, float, float] = (0.85, 0.05, 0.1)
    """The same for instructions."""

    def __post_init__(self) -> None:
        """Refuse what would be found out only while the data is prepared, or after."""
        at_least(self, vocab_size=257, min_chars=0)
        if self.near_duplicates is not None and not 0.0 < self.near_duplicates < 1.0:
            raise ConfigError(
                f"prepare.near_duplicates is {self.near_duplicates}; it must lie between 0 and 1, or be none"
            )
        for name in ("corpus_split", "classify_split", "instruct_split"):
            shares = getattr(self, name)
            # a corpus need not leave anything to the tests of the rows
            needed = shares if name != "corpus_split" else shares[:2]
            if min(shares) < 0 or min(needed) == 0 or abs(sum(shares) - 1) > 1e-9:
                raise ConfigError(
                    f"prepare.{name} is {shares}; the shares of train, val and test must add up to 1, and none may be 0"
                    + (" but the last" if needed != shares else "")
                )


@dataclass(frozen=True)
class PretrainStage(Config):
    """A base model on the corpus."""

    model: ModelConfig = field(default_factory=lambda: PRESETS["micro"])
    """Sizes; ``vocab_size`` is taken from the tokenizer."""
    init: str | None = None
    """Start from a checkpoint folder, or ``hf:REPO`` for a GPT-2 on the Hugging Face hub, instead of random weights;
    with ``pretrain.train.steps=0`` it is taken as it is."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How long and how."""


@dataclass(frozen=True)
class ClassifyStage(Config):
    """Fine-tuning of the base model for classification."""

    tune: Literal["head", "last_blocks", "all"] = "all"
    """What is trained."""
    n_blocks: int = 1
    """How many of the last blocks with ``last_blocks``."""
    long_inputs: LongInputs = "head"
    """Which part of a text longer than the context is read."""
    dropout: float | None = None
    """Dropout probability while fine-tuning; None keeps the base model's."""
    label_smoothing: float = 0.0
    """Share of the target's probability spread over all classes."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How long and how."""

    def __post_init__(self) -> None:
        """Refuse what would be found out only after the base model is trained."""
        at_least(self, n_blocks=0)
        if self.dropout is not None:
            Dropout(self.dropout)
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ConfigError(f"label_smoothing is {self.label_smoothing}; it must be at least 0 and below 1")


@dataclass(frozen=True)
class InstructStage(Config):
    """Fine-tuning of the base model for instructions."""

    template: str = "alpaca"
    """Prompt template: alpaca, phi-3, chatml or short."""
    mask_prompt: bool = True
    """Whether only the response is a target."""
    max_new_tokens: int = 64
    """Longest generated response, in tokens."""
    max_responses: int = 110
    """Held-out prompts that are answered."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How long and how."""

    def __post_init__(self) -> None:
        """Refuse what would be found out only after the base model is trained."""
        template_by_name(self.template)
        at_least(self, max_new_tokens=1, max_responses=1)


@dataclass(frozen=True)
class LoraStage(Config):
    """Low-rank adaptation of the base model for both tasks."""

    rank: int = 8
    """Rank of the update."""
    alpha: float = 16.0
    """The update is scaled by alpha / rank."""
    dropout: float = 0.0
    """Dropout on the update's input."""
    targets: tuple[str, ...] = ("qkv", "out", "up", "down")
    """Linear layers of each block that are adapted."""
    also_train: tuple[str, ...] = ()
    """Modules trained in full beside the updates: ``token_embedding`` where the base hardly knows the task's words."""
    base_format: Literal["fp32", "nf4"] = "fp32"
    """Form of the frozen base: ``nf4`` takes an eighth of the memory (QLoRA); what ``also_train`` names stays fp32."""
    block_size: int = 64
    """Inputs that share a scale with ``nf4``."""
    classify: TrainConfig = field(default_factory=TrainConfig)
    """Training for classification."""
    instruct: TrainConfig = field(default_factory=TrainConfig)
    """Training for instructions."""

    def __post_init__(self) -> None:
        """Refuse what would be found out only after the base model is trained."""
        LoRA(rank=self.rank, alpha=self.alpha, dropout=self.dropout)
        if self.base_format == "nf4":
            NF4(block_size=self.block_size)
        known = _linear_layers()
        for target in self.targets:
            if target not in known:
                raise ConfigError(f"lora.targets names {target!r}, no linear layer of a block{nearest(target, known)}")
        if not self.targets:
            raise ConfigError(f"lora.targets is empty; name one or more of {', '.join(sorted(known))}")


@dataclass(frozen=True)
class EvaluateStage(Config):
    """Scores of the held-out responses."""

    judge: Literal["auto", "required", "off"] = "auto"
    """Ask the judge if one answers; insist on it; or never."""
    judge_model: str = "llama3"
    """Model tag on the judge's server; ``llama3@365c0bd3c000`` insists on the weights of this digest."""
    judge_panel: tuple[str, ...] = ()
    """Further judges on the same server that score the same responses; how far all agree is told, the first decides."""
    judge_backend: Literal["ollama", "openai"] = "ollama"
    """Which interface the judge's server speaks."""
    judge_url: str | None = None
    """Its address; by default ``OLLAMA_HOST`` or ``OPENAI_BASE_URL``."""
    judge_models: tuple[Literal["instruct", "base", "lora"], ...] = ("instruct", "base")
    """Whose responses are judged, and then compared on the same items; the fine-tuned model's (instruct) always are."""
    pairwise: bool = False
    """Whether the judge also sees each two models' responses side by side, in both orders."""
    num_ctx: int = 8192
    """Tokens of the judge's window."""
    shortcut: bool = True
    """Whether a response that is the reference gets 100 without asking; without it scores compare with the book's."""
    concurrency: int = 1
    """Requests to the judge at a time."""

    def __post_init__(self) -> None:
        """Refuse what would be found out only after the models are trained."""
        at_least(self, concurrency=1, num_ctx=1024)
        if "instruct" not in self.judge_models or len(set(self.judge_models)) < len(self.judge_models):
            raise ConfigError(
                f"evaluate.judge_models is {', '.join(self.judge_models) or 'empty'}; it must have instruct, each once"
            )
        panel = (self.judge_model, *self.judge_panel)
        if len(set(panel)) < len(panel):
            raise ConfigError(
                f"evaluate.judge_panel is {', '.join(self.judge_panel)} beside the judge_model {self.judge_model};"
                " name each judge once"
            )


@dataclass(frozen=True)
class Pipeline(Config):
    """The whole chain."""

    preset: str = "demo"
    """Name of the preset it came from."""
    seed: int = 1
    """Seed of everything that is drawn."""
    prepare: PrepareStage = field(default_factory=PrepareStage)
    """Data preparation."""
    pretrain: PretrainStage = field(default_factory=PretrainStage)
    """Pretraining."""
    classify: ClassifyStage = field(default_factory=ClassifyStage)
    """Classification fine-tuning."""
    instruct: InstructStage = field(default_factory=InstructStage)
    """Instruction fine-tuning."""
    lora: LoraStage = field(default_factory=LoraStage)
    """LoRA for both tasks."""
    compress: CompressStage = field(default_factory=CompressStage)
    """Compression."""
    evaluate: EvaluateStage = field(default_factory=EvaluateStage)
    """Evaluation."""


@cache
def _linear_layers() -> set[str]:
    """The last names of the linear layers of a block, as LoRA addresses them."""
    smallest = GPTConfig(vocab_size=1, context_length=1, width=1, n_layers=1, n_heads=1).build()
    return {name.rpartition(".")[2] for name, _ in named_linears(smallest) if name.startswith("blocks.")}


def _train(lr: float, *, epochs: float, batch_size: int, eval_every: int, **rest: object) -> TrainConfig:
    schedule = Cosine(warmup=0.05, final=0.05)
    base = TrainConfig(
        epochs=epochs,
        batch_size=batch_size,
        optimizer=OptimizerConfig(lr=lr),
        schedule=schedule,
        eval_every=eval_every,
    )
    return cast(TrainConfig, _replaced(base, rest))


def _replaced(config: Config, changes: dict[str, object]) -> Config:
    for name, value in changes.items():
        config = set_by_path(config, name, value)
    return config


def demo() -> Pipeline:
    """Docstrings of the installed packages; minutes on two cores."""
    return Pipeline(
        preset="demo",
        prepare=PrepareStage(source=Demo(), vocab_size=4096, corpus_split=(0.8, 0.03, 0.17)),
        pretrain=PretrainStage(
            model=GPTConfig(context_length=160, width=128, n_layers=2, n_heads=4),
            train=_train(
                1e-3, epochs=0.35, batch_size=12, eval_every=100, sample_prompts=("function numpy.", "Return the")
            ),
        ),
        classify=ClassifyStage(train=_train(1e-3, epochs=2, batch_size=16, eval_every=200, keep="last")),
        instruct=InstructStage(
            template="short",
            max_new_tokens=40,
            max_responses=96,
            train=_train(2e-3, epochs=2, batch_size=16, eval_every=150),
        ),
        lora=LoraStage(
            rank=8,
            classify=_train(5e-3, epochs=2, batch_size=16, eval_every=200, keep="last"),
            instruct=_train(5e-3, epochs=1, batch_size=16, eval_every=150),
        ),
    )


def book() -> Pipeline:
    """The data of "Build a Large Language Model (From Scratch)" plus Tiny Shakespeare; half an hour on two cores."""
    return Pipeline(
        preset="book",
        prepare=PrepareStage(
            source=Book(),
            vocab_size=4096,
            min_chars=1,
            balance=True,
            corpus_split=(0.93, 0.07, 0.0),
            classify_split=(0.7, 0.1, 0.2),
            instruct_split=(0.85, 0.05, 0.1),
        ),
        pretrain=PretrainStage(
            model=GPTConfig(context_length=256, width=192, n_layers=4, n_heads=6, dropout=0.1),
            train=_train(
                2e-3, epochs=4, batch_size=16, eval_every=100, sample_prompts=("Every effort moves you", "KING:")
            ),
        ),
        classify=ClassifyStage(train=_train(1e-3, epochs=6, batch_size=8, eval_every=100)),
        instruct=InstructStage(
            template="alpaca", max_new_tokens=64, train=_train(1e-3, epochs=8, batch_size=8, eval_every=100)
        ),
        lora=LoraStage(
            rank=16,
            alpha=32.0,
            also_train=("token_embedding",),
            classify=_train(2e-3, epochs=6, batch_size=8, eval_every=100),
            instruct=_train(3e-3, epochs=8, batch_size=8, eval_every=100),
        ),
    )


def tiny() -> Pipeline:
    """The demo's chain in seconds, for tests of the machinery: its figures mean nothing."""
    quick = {"steps": 6, "eval_every": 3, "log_every": 2, "eval_samples": 16, "checkpoint_every": 3}

    def train(lr: float) -> TrainConfig:
        return _train(lr, epochs=1, batch_size=4, **quick)

    return Pipeline(
        preset="tiny",
        prepare=PrepareStage(source=Demo(docstrings_per_library=40, instruction_rows=120), vocab_size=512),
        pretrain=PretrainStage(model=GPTConfig(context_length=96, width=32, n_layers=2, n_heads=2), train=train(3e-3)),
        classify=ClassifyStage(train=train(1e-3)),
        instruct=InstructStage(template="short", max_new_tokens=8, max_responses=4, train=train(1e-3)),
        lora=LoraStage(rank=2, classify=train(1e-3), instruct=train(1e-3)),
        compress=CompressStage(
            methods=("int8", "int4", "gptq", "hidden+tune"),
            calibration_samples=8,
            train=train(1e-3),
            max_increase_int8=1.0,
            max_increase_int4=1.0,
            max_increase_gptq=1.0,
            speed_tokens=4,
        ),
    )


PIPELINES = {"demo": demo, "book": book, "tiny": tiny}
"""The presets by name."""


def resolve(preset: str, *, overrides: Sequence[str] = ()) -> Pipeline:
    """The preset's value with overrides of the form ``a.b=c`` applied in order.

    Raises:
        ConfigError: the preset or a field is unknown (the nearest is named), or a value does not fit.
    """
    if preset not in PIPELINES:
        raise ConfigError(f"unknown preset {preset!r}{nearest(preset, PIPELINES)}")
    config = PIPELINES[preset]()
    for override in overrides:
        path, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override!r} must have the form a.b=value")
        config = cast(Pipeline, set_by_path(config, path.strip(), value.strip()))
    if config.pretrain.init and config.prepare.tokenizer == "bpe":
        # a model from elsewhere can only read what was made with its own tokenizer
        config = cast(Pipeline, set_by_path(config, "prepare.tokenizer", config.pretrain.init))
    # a whole number in a field of fractions becomes one: 1 and 1.0 are equal, but would give two keys
    return Pipeline.from_dict(config.to_dict())


def optimizer_overrides(name: str) -> list[str]:
    """What ``--optimizer`` stands for: this optimizer in every training, the other settings as they are.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in OPTIMIZERS:
        raise ConfigError(f"unknown optimizer {name!r}{nearest(name, OPTIMIZERS)}")
    return [f"{training}.optimizer={OPTIMIZERS[name]}" for training in TRAININGS]


def with_own_data(
    config: Pipeline,
    *,
    corpus: Sequence[Path] = (),
    labelled: Path | None = None,
    instructions: Path | None = None,
) -> Pipeline:
    """The same chain on the user's own files; what is not given is left out of the chain."""
    if not (corpus or labelled or instructions):
        return config
    files = Files(corpus=tuple(corpus), labelled_rows=labelled, instruction_rows=instructions)
    prepare, preset = replace(config.prepare, source=files), PIPELINES[config.preset]().prepare
    if corpus and prepare.corpus_split == preset.corpus_split:
        # a preset whose rows are made from its corpus leaves a part of that to their tests; own rows need none
        train, val, test = prepare.corpus_split
        prepare = replace(prepare, corpus_split=(round(train + test, 9), val, 0.0))
    return replace(config, prepare=prepare)
