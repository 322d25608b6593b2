"""Classification from the last real token of each row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F

from gptcore.batch import Batch
from gptcore.models import GPT
from gptcore.objectives import Classify
from gptcore.objectives.classify import class_logits
from gptcore.transforms import Classifier

Build = Callable[..., GPT]


def classifier(gpt: Build) -> GPT:
    model = gpt()
    Classifier(labels=("a", "b", "c"), train="all").apply(model)
    torch.nn.init.normal_(model.head.weight)
    return model


def ragged_batch(pad: int) -> Batch:
    tokens = torch.randint(300, (3, 8), generator=torch.Generator().manual_seed(1))
    lengths = (8, 3, 5)
    tokens[torch.arange(8) >= torch.tensor(lengths)[:, None]] = pad
    return Batch({"tokens": tokens}, {"classes": torch.tensor([2, 0, 1])}, n_tokens=16, lengths=lengths)


def test_padding_behind_the_last_token_does_not_matter(gpt: Build) -> None:
    model = classifier(gpt)
    logits = class_logits(model, ragged_batch(pad=0))
    assert torch.equal(logits, class_logits(model, ragged_batch(pad=299)))
    alone = ragged_batch(pad=0).inputs["tokens"][1:2, :3]
    assert torch.allclose(logits[1], model(alone)[0, -1], atol=1e-5)


def test_the_loss_is_a_sum_over_rows_with_the_correct_ones_counted(gpt: Build) -> None:
    model, batch = classifier(gpt), ragged_batch(pad=0)
    logits, classes = class_logits(model, batch), batch.targets["classes"]
    loss = Classify()(model, batch)
    assert Classify().counts(batch) == dict.fromkeys(loss.parts, 3)
    assert torch.allclose(loss.total, F.cross_entropy(logits, classes, reduction="sum"))
    right = replace(batch, targets={"classes": logits.argmax(dim=1)})
    wrong = replace(batch, targets={"classes": (logits.argmax(dim=1) + 1) % 3})
    assert Classify()(model, right).sums == {"correct": 3.0}
    assert Classify()(model, wrong).sums == {"correct": 0.0}


def test_label_smoothing_acts_in_training_only(gpt: Build) -> None:
    model, batch = classifier(gpt), ragged_batch(pad=0)
    logits, classes = class_logits(model, batch), batch.targets["classes"]
    smooth = Classify(label_smoothing=0.2)
    assert torch.equal(smooth(model, batch).total, Classify()(model, batch).total)
    model.train()
    expected = F.cross_entropy(logits, classes, reduction="sum", label_smoothing=0.2)
    assert torch.allclose(smooth(model, batch).total, expected, rtol=1e-5)
