"""Classifiers in transformers' form, ``GPT2ForSequenceClassification``.

Its head has no bias, ours has one. The final layer norm's own bias b is seen by the head S alone, so the head's bias c
can be put there: S (b + d) = S b + c for d = S⁺ c, exactly, as long as there are no more classes than the width and no
class is a mixture of others. It reads the class at the last token that is not padding, and knows padding by its id: the
vocabulary gets one more token for it, which no text has.

Shapes: K classes, C width.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from gptcore.checkpoint import Loaded, ModelSpec
from gptcore.errors import CheckpointError, ConfigError
from gptcore.export.families import hf_form, model_with
from gptcore.export.hf_tokens import PAD
from gptcore.models import Model, ModelConfig
from gptcore.models.base import as_decoder
from gptcore.models.family import HFClassifier, HFForm
from gptcore.readers import Readers
from gptcore.transforms import Classifier, ExtendVocabulary

_SCORE = "score.weight"


def pad_classifier(loaded: Loaded) -> Loaded:
    """The classifier with one more word, for padding.

    Raises:
        ConfigError: it is of a family whose final norm has no bias that could take the head's.
    """
    _classifier(loaded.decoder)
    tokenizer = loaded.tokenizer.with_special_tokens([PAD])
    model = ExtendVocabulary(vocab_size=max(tokenizer.vocab_size, loaded.decoder.config.vocab_size)).apply(loaded.model)
    return loaded._replace(model=model.eval(), readers=Readers(tokenizer))


def classifier_config(loaded: Loaded, labels: tuple[str, ...]) -> dict[str, Any]:
    """What ``config.json`` says of a padded classifier besides."""
    return {
        "architectures": [_classifier(loaded.decoder).architecture],
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
        "pad_token_id": loaded.tokenizer.special_tokens[PAD],
        "problem_type": "single_label_classification",
    }


def score_tensors(model: Model, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The head without its bias, and the final norm's bias with it."""
    assert isinstance(model.head, nn.Linear)
    weight = model.head.weight.detach()  # (K, C)
    shift = torch.zeros(weight.shape[1])
    if model.head.bias is not None:
        shift = (torch.linalg.pinv(weight.double()) @ model.head.bias.detach().double()).float()
    norm_bias = _classifier(model).norm_bias
    return {_SCORE: weight.clone(), norm_bias: tensors[norm_bias] + shift}


def _classifier(model: Model) -> HFClassifier:
    """How a classifier of the model's family is written.

    Raises:
        ConfigError: it has no form in transformers.
    """
    form = hf_form(model).classifier
    if form is None:
        raise ConfigError(
            f"a classifier of the family {type(model).__name__} has no form in transformers: the head there has no "
            "bias, and its final norm has none that could take the head's; train a GPT-2 for it"
        )
    return form


def labels_in(config: dict[str, Any]) -> tuple[str, ...]:
    """The classes in a ``config.json``; empty for a language model.

    Raises:
        CheckpointError: it is a classifier that does not name its classes.
    """
    architectures = config.get("architectures")
    if not (
        isinstance(architectures, list) and any("ForSequenceClassification" in str(name) for name in architectures)
    ):
        return ()
    names = config.get("id2label")
    if not isinstance(names, dict) or sorted(names) != sorted(map(str, range(len(names)))) or len(names) < 2:
        raise CheckpointError(f"expected id2label in config.json to name every class of the classifier, got {names!r}")
    return tuple(str(names[str(i)]) for i in range(len(names)))


def classifier_from_hf(
    form: HFForm, config: ModelConfig, tensors: dict[str, Tensor], *, labels: tuple[str, ...], place: str
) -> tuple[Model, ModelSpec]:
    """The classifier of transformers' tensors; its head's bias is zero.

    Raises:
        CheckpointError: a weight is missing or of another shape.
    """
    score = tensors.pop(_SCORE, None)
    if score is None or score.shape != (len(labels), config.width):
        found = None if score is None else tuple(score.shape)
        raise CheckpointError(
            f"{place}: expected {_SCORE} of shape ({len(labels)}, C) for as many classes, got {found}"
        )
    tied = dataclasses.replace(config, tied_head=True)  # the words' head is not there, and is replaced at once
    transform = Classifier(labels=labels, train="all")
    model = transform.apply(model_with(form, tied, tensors, place=place))
    assert isinstance(model.head, nn.Linear)
    with torch.no_grad():
        model.head.weight.copy_(score.float())
        model.head.bias.zero_()
    return as_decoder(model.eval(), purpose=place), ModelSpec(tied, transforms=(transform,))
