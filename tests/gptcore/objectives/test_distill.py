"""Distillation: value and gradient against the formula written out, for words and for classes, in any chunks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gptcore import checkpoint
from gptcore.batch import IGNORED, Batch
from gptcore.checkpoint import ModelSpec
from gptcore.errors import CheckpointError, ConfigError
from gptcore.models import GPT
from gptcore.nn import distill_loss
from gptcore.objectives import Classify, Distill, NextToken, Objective
from gptcore.tokenizer import Tokenizer
from gptcore.train.logger import MemoryLogger
from gptcore.transforms import Classifier, Quantize, Transform

Build = Callable[..., GPT]
LABELS = ("fog", "ship", "cat")


@pytest.fixture
def taught(gpt: Build, tokenizer: Tokenizer, tmp_path: Path) -> Callable[..., tuple[Path, GPT]]:
    """A saved teacher and its model."""

    def build(*transforms: Transform, **changes: Any) -> tuple[Path, GPT]:
        model = gpt(seed=7, **{"width": 24, "n_layers": 3, "n_heads": 3, **changes})
        spec = ModelSpec(model.config, transforms, tokenizer_digest=tokenizer.digest)
        for transform in transforms:
            transform.apply(model)
        path = tmp_path / "teacher"
        checkpoint.save(path, model=model, spec=spec, tokenizer=tokenizer)
        return path, model.eval()

    return build


def words(seed: int = 0) -> Batch:
    torch.manual_seed(seed)
    tokens, labels = torch.randint(300, (3, 11)), torch.randint(300, (3, 11))
    labels[0, :4], labels[2, 6:] = IGNORED, IGNORED
    return Batch({"tokens": tokens}, {"labels": labels})


def classes() -> Batch:
    torch.manual_seed(0)
    return Batch(
        {"tokens": torch.randint(300, (5, 9))},
        {"classes": torch.tensor([0, 2, 1, 1, 0])},
        lengths=(9, 4, 9, 6, 3),
    )


def written_out(ours: Tensor, theirs: Tensor, labels: Tensor, *, temperature: float, soft: float) -> Tensor:
    hard = F.cross_entropy(ours, labels, reduction="sum")
    told, wanted = (ours / temperature).log_softmax(1), (theirs / temperature).softmax(1)
    return (1 - soft) * hard + soft * temperature**2 * F.kl_div(told, wanted, reduction="sum")


def gradients(model: GPT) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("soft", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("tied_head", [True, False])
def test_words_have_the_loss_and_gradient_of_the_formula(
    taught: Any, gpt: Build, monkeypatch: pytest.MonkeyPatch, temperature: float, soft: float, tied_head: bool
) -> None:
    monkeypatch.setattr(distill_loss, "CHUNK_ELEMENTS", 300 * 4 * 5)  # chunks of five rows
    path, teacher = taught()
    student, batch = gpt(tied_head=tied_head).train(), words()
    loss = Distill(path, temperature=temperature, soft=soft)(student, batch)
    (loss.total * 0.5).backward()
    ours = gradients(student)
    labels = batch.targets["labels"].flatten()
    there = labels != IGNORED
    logits = student(batch.inputs["tokens"]).flatten(0, 1)[there]
    with torch.no_grad():
        theirs = teacher(batch.inputs["tokens"]).flatten(0, 1)[there]
    total = written_out(logits, theirs, labels[there], temperature=temperature, soft=soft)
    (total * 0.5).backward()
    dense = gradients(student)
    assert Distill(path).counts(batch) == dict.fromkeys(loss.parts, int(there.sum()))
    assert loss.total.item() == pytest.approx(total.item(), rel=1e-5)
    assert ours.keys() == dense.keys()
    for name, gradient in dense.items():
        assert torch.allclose(ours[name], gradient, rtol=1e-3, atol=1e-5), name


def test_classes_have_the_loss_and_gradient_of_the_formula(taught: Any, gpt: Build) -> None:
    head = Classifier(labels=LABELS, train="all")
    path, teacher = taught(head)
    student, batch = head.apply(gpt()).train(), classes()
    loss = Distill(path, objective=Classify(), temperature=2.0, soft=0.7)(student, batch)
    loss.total.backward()
    ours = gradients(student)
    rows, last = torch.arange(5), torch.tensor(batch.lengths) - 1
    logits = student(batch.inputs["tokens"])[rows, last]
    theirs = teacher(batch.inputs["tokens"])[rows, last].detach()
    total = written_out(logits, theirs, batch.targets["classes"], temperature=2.0, soft=0.7)
    total.backward()
    assert loss.total.item() == pytest.approx(total.item(), rel=1e-5)
    assert loss.sums["correct"] == float((logits.argmax(1) == batch.targets["classes"]).sum())
    for name, gradient in gradients(student).items():
        assert torch.allclose(ours[name], gradient, rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize("objective", [NextToken(), Classify()])
def test_in_evaluation_only_the_hard_loss_counts(taught: Any, gpt: Build, objective: Objective) -> None:
    head = (Classifier(labels=LABELS, train="all"),) if isinstance(objective, Classify) else ()
    path, _ = taught(*head)
    student, batch = gpt(), words() if isinstance(objective, NextToken) else classes()
    for transform in head:
        transform.apply(student)
    told = Distill(path, objective=objective)(student.eval(), batch)
    plain = objective(student, batch)
    assert (told.parts, told.sums) == (plain.parts, plain.sums)


def test_a_student_comes_to_think_as_its_teacher(taught: Any, gpt: Build) -> None:
    path, teacher = taught()
    student, batch = gpt().train(), words()
    optimizer, objective = torch.optim.AdamW(student.parameters(), lr=1e-2), Distill(path, soft=1.0)
    losses = []
    for _ in range(60):
        loss = objective(student, batch)
        loss.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.total.item())
    assert losses[-1] < 0.1 * losses[0]
    assert all(p.grad is None for p in teacher.parameters())


def test_a_run_trains_with_it_and_survives_json(prepared: Any, taught: Any, tmp_path: Path) -> None:
    path, _ = taught()
    run = prepared.run(objective=Distill(path, temperature=4.0))
    assert type(run).from_dict(run.to_dict()) == run
    result = run.execute(tmp_path / "run", MemoryLogger())
    assert result.metrics["val/loss"] < 5.8
    assert result.path.is_dir()


def test_what_cannot_be_distilled_is_refused(taught: Any, gpt: Build, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected temperature to be above 0, got 0\.0"):
        Distill(tmp_path, temperature=0.0)
    with pytest.raises(ConfigError, match=r"expected soft to be from 0 to 1, got 1\.5"):
        Distill(tmp_path, soft=1.5)
    with pytest.raises(ConfigError, match=r"Distill cannot be distilled: .*; choose NextToken or Classify"):
        Distill(tmp_path, objective=Distill(tmp_path))
    with pytest.raises(CheckpointError):
        Distill(tmp_path / "nothing")(gpt().train(), words())
    path, _ = taught()
    with pytest.raises(ConfigError, match="expected a teacher with the student's 320 words, got one with 300"):
        Distill(path)(gpt(vocab_size=320).train(), words())
    with pytest.raises(ConfigError, match="the student's head is quantized or adapted"):
        Distill(path)(Quantize().apply(gpt()).train(), words())
