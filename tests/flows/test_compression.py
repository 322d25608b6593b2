"""The compress stage: settings that cannot be, steps that share their beginnings, forms that load, the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from flows.recipes.resolve import resolve
from flows.sources.base import Places
from flows.stages.compress.figures import tradeoff_svg
from flows.stages.compress.recipe import CompressStage, beginnings
from flows.stages.compress.result import CompressedForm
from flows.stages.compress.rows import as_text, measure_classifier, measure_language_model
from flows.stages.compress.steps import Subject, Workshop
from flows.stages.context import Context
from flows.stages.lora.body import _lora
from flows.stages.lora.recipe import LoraStage
from gptcore import checkpoint
from gptcore.checkpoint import Loaded
from gptcore.compress import resident_bytes, share_of_zeros
from gptcore.data import LabelledText, TokenWindows
from gptcore.data.corpus import write_shards
from gptcore.errors import ConfigError
from gptcore.files import write_json_lines
from gptcore.models import GPT, GPTConfig
from gptcore.nn import count_parameters
from gptcore.objectives import Classify, NextToken
from gptcore.run import Run
from gptcore.tokenizer import train_bpe
from gptcore.train import OptimizerConfig, TrainConfig
from gptcore.train.logger import MemoryLogger
from gptcore.transforms import NF4, Classifier, LoRA, Quantize

TEXT = "".join(
    f"The {what} number {i} stood on the {where} and looked at the sea.\n"
    for i in range(60)
    for what, where in (("bell", "hill"), ("ship", "quay"))
)
QUICK = TrainConfig(steps=4, batch_size=8, eval_every=4, optimizer=OptimizerConfig(lr=5e-3), keep="last")


class Words(MemoryLogger):
    """A log that also takes artifacts, and keeps none."""

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Nothing is kept."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a base model that has learned it a little, and a classifier made of it."""
    folder = tmp_path_factory.mktemp("compress")
    tokenizer = train_bpe([TEXT], vocab_size=300)
    tokenizer.save(folder / "tokenizer")
    for name, text in (("train", TEXT), ("val", TEXT[-1800:])):
        write_shards([text], tokenizer=tokenizer, folder=folder / name)
    rows = [{"text": line, "label": "bell" if "bell" in line else "ship"} for line in TEXT.splitlines()]
    write_json_lines(folder / "rows.jsonl", rows)
    model = GPTConfig(vocab_size=300, context_length=32, width=64, n_layers=2, n_heads=2)
    train = replace(QUICK, steps=60)
    windows = TokenWindows(folder / "train", 32)
    base = Run(data=windows, objective=NextToken(), tokenizer=folder / "tokenizer", model=model, train=train)
    path = base.execute(folder / "base", MemoryLogger()).path
    head = Classifier(labels=("bell", "ship"), train="last_blocks", n_blocks=2)
    classifier = Run(
        data=labelled(folder),
        objective=Classify(),
        tokenizer=folder / "tokenizer",
        init=path,
        transforms=(head,),
        train=replace(QUICK, steps=20),
    )
    classifier.execute(folder / "classifier", MemoryLogger())
    return folder


def labelled(folder: Path) -> LabelledText:
    return LabelledText(folder / "rows.jsonl", folder / "tokenizer", ("bell", "ship"), 32)


@pytest.fixture
def workshop(home: Path, tmp_path: Path) -> Callable[..., Workshop]:
    """Makes compressed forms of the base, or of the classifier."""

    def build(*, classifier: bool = False, **changes: Any) -> Workshop:
        words = Subject(
            "language",
            home / "base/checkpoint",
            TokenWindows(home / "train", 32),
            TokenWindows(home / "val", 32),
            NextToken(),
        )
        classes = Subject("classifier", home / "classifier/checkpoint", labelled(home), labelled(home), Classify())
        log = cast(Any, Words())
        context = Context(tmp_path, Places(None, tmp_path), log, lambda _: None, 1, "")
        config = CompressStage(**{"calibration_samples": 16, "train": QUICK, **changes})
        return Workshop(classes if classifier else words, config, context, tmp_path / "forms")

    return build


def test_methods_that_begin_alike_share_their_beginning(workshop: Callable[..., Workshop]) -> None:
    methods = ("depth+distill", "depth+distill+int8", "hidden", "depth+int4")
    assert beginnings(methods) == [
        ("depth",),
        ("depth", "distill"),
        ("depth", "distill", "int8"),
        ("hidden",),
        ("depth", "int4"),
    ]
    assert CompressStage(methods=methods).n_trainings == 1
    shop = workshop()
    first = shop.make(("depth", "distill"))
    before = (first / "manifest.json").stat().st_mtime_ns
    quantized = checkpoint.load(shop.make(("depth", "distill", "int8")))
    assert (first / "manifest.json").stat().st_mtime_ns == before
    assert quantized.spec.model.n_layers == 1  # type: ignore[attr-defined]
    assert quantized.spec.transforms == (Quantize(bits=8, group_size=32),)


FORMS = {
    "heads+int4": lambda config: (config.n_heads, config.head_width) == (1, 32),
    "hidden+tune": lambda config: config.hidden_width == 128,
    "depth": lambda config: config.n_layers == 1,
    "student+distill": lambda config: (config.width, config.n_layers) == (32, 1),
    "gptq": lambda config: config.hidden_width is None,
}


@pytest.mark.parametrize("classifier", [False, True])
@pytest.mark.parametrize("method", FORMS)
def test_every_form_is_a_checkpoint_of_its_sizes_that_does_its_task(
    workshop: Callable[..., Workshop], method: str, classifier: bool
) -> None:
    shop = workshop(classifier=classifier)
    loaded = checkpoint.load(shop.make(tuple(method.split("+"))))
    assert isinstance(loaded.model, GPT)
    assert FORMS[method](loaded.model.config)
    assert FORMS[method](loaded.spec.model)
    if classifier:
        told = measure_classifier(loaded, shop.subject.held_out.open(), n_classes=2)
        assert 0.0 <= told["accuracy"] <= 1.0
        (head,) = [t for t in loaded.spec.transforms if isinstance(t, Classifier)]
        assert head.n_blocks == min(2, loaded.model.config.n_layers)


def test_half_the_bytes_are_fp32_again_in_memory(workshop: Callable[..., Workshop]) -> None:
    shop = workshop()
    original = shop.subject.checkpoint
    for step in ("bf16", "fp16"):
        path = shop.make((step,))
        sizes = [(folder / "model.safetensors").stat().st_size for folder in (path, original)]
        assert sizes[0] < 0.52 * sizes[1]
        ours, theirs = (checkpoint.load(folder).model for folder in (path, original))
        assert resident_bytes(ours) == resident_bytes(theirs)
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert a.dtype == torch.float32
            assert torch.allclose(a, b, rtol=0.005, atol=1e-6)


def test_zeros_survive_what_may_follow_them(workshop: Callable[..., Workshop]) -> None:
    shop = workshop(sparsity=0.6)
    dense = checkpoint.load(shop.make(("wanda",))).model
    assert share_of_zeros(dense) == pytest.approx(0.6, abs=0.02)
    stored = checkpoint.load(shop.make(("wanda", "nf4"))).model
    for mine, theirs in zip(dense.blocks, stored.blocks, strict=True):
        gone = mine.get_submodule("feedforward.up").weight == 0
        assert float(theirs.get_submodule("feedforward.up").dense()[gone].abs().max()) == 0.0


def test_a_row_tells_size_quality_and_speed(workshop: Callable[..., Workshop]) -> None:
    shop = workshop()
    original = checkpoint.load(shop.subject.checkpoint)
    held_out = shop.subject.held_out.open()

    def row(loaded: Loaded, path: Path, name: str) -> CompressedForm:
        found = measure_language_model(loaded, path, original=original, held_out=held_out, n_tokens=4, meter=None)
        return CompressedForm(name=name, **found)

    same = row(checkpoint.load(shop.subject.checkpoint), shop.subject.checkpoint, "fp32")
    assert (same.kl, same.kl_p99, same.same_top) == (0.0, 0.0, 1.0)
    path = shop.make(("int8",))
    small = row(checkpoint.load(path), path, "int8")
    assert small.memory_bytes < 0.45 * same.memory_bytes
    assert small.n_parameters == same.n_parameters == count_parameters(original.model).total
    assert 0.0 < small.kl < 0.05
    assert small.perplexity == pytest.approx(same.perplexity, rel=0.02)
    assert small.tokens_per_second > 0
    assert [line.split()[0] for line in as_text([same, small]).splitlines()] == ["method", "fp32", "int8"]
    path = shop.make(("int8-dynamic",))
    assert checkpoint.load(path).spec.transforms[-1] == Quantize(bits=8, activation_bits=16)
    assert row(checkpoint.load(path), path, "int8-dynamic").kl == pytest.approx(small.kl, rel=0.1)
    svg = tradeoff_svg([same, small], name="one")
    assert "int8" in svg
    assert svg == tradeoff_svg([same, small], name="one")


def test_an_adapted_base_of_normal_floats_leaves_what_is_trained_in_full() -> None:
    config = LoraStage(base_format="nf4", block_size=32)
    assert _lora(config, ("head",)) == (NF4(block_size=32, embedding="int8"), LoRA(also_train=("head",)))
    base, update = _lora(config, ("token_embedding",))
    assert base == NF4(block_size=32, embedding="fp32")
    assert isinstance(update, LoRA)
    assert len(_lora(LoraStage(), ())) == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("compress.methods=int9", "the step 'int9', which does not exist; did you mean 'int"),
        ("compress.methods=int8,int8", "compress.methods: expected each method once, got int8, int8"),
        ("compress.methods=", "compress.methods: expected one or more of student, heads"),
        ("compress.methods=int8+tune", "'int8.tune': nothing can follow int8, whose weights cannot be changed"),
        ("compress.methods=wanda+tune", "after wanda only a way to store it may follow; tune would fill the zeros"),
        ("compress.methods=wanda+gptq", "gptq has no code for zero and would move the zeros; int8 and nf4 have one"),
        ("compress.methods=depth+student", "student begins with random weights, so it must come first"),
        ("compress.methods=student+int8", "student has random weights; tune or distill must follow it"),
        ("compress.sparsity=1.0", r"expected sparsity to be at least 0 and below 1, got 1\.0"),
        ("compress.pattern=half", "compress.pattern: expected the form n:m, as in 2:4, got 'half'"),
        ("compress.pattern=4:2", "expected a pattern n:m with n above 0 and below m, got 4:2"),
        ("compress.layers_kept=1", r"compress.layers_kept: expected a number between 0 and 1, got 1\.0"),
        ("compress.temperature=0", r"compress.temperature: expected a number above 0, got 0\.0"),
        ("compress.soft=2", r"compress.soft: expected 0 to 1, got 2\.0"),
        ("lora.base_format=fp8", "expected LoraStage.base_format to be one of 'fp32', 'nf4', got 'fp8'"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_runs(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve("tiny", overrides=[override])
