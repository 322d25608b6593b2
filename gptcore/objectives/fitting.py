"""Which networks an objective can train: the questions that ``Objective.fits`` asks, each answered by the network."""

from __future__ import annotations

import torch
from torch import Tensor

from gptcore.errors import ConfigError
from gptcore.models.network import Network, as_words


def check_causal(objective: str, network: Network) -> None:
    """Refuse a network in which a position sees the words after it.

    Raises:
        ConfigError: it would copy the next word, and the loss would fall to nothing without anything being learned.
    """
    if not network.causal:
        raise ConfigError(
            f"{objective} expects a causal network, got {type(network).__name__}, whose positions see the words after "
            "them and would only copy the next one; choose an objective that hides what is to be found"
        )


def check_word_head(objective: str, network: Network) -> None:
    """Refuse a network whose head has not one output for each word.

    Raises:
        ConfigError: it reads no words, or the head has another number of outputs; the text names both numbers.
    """
    n_words = as_words(network, purpose=objective).config.vocab_size
    n_outputs = n_outputs_of(network)
    if n_outputs != n_words:
        raise ConfigError(
            f"{objective} expects a head with an output for each of the {n_words:,} words, got "
            f"{type(network).__name__} with {n_outputs} outputs; train a head over classes by Classify"
        )


def check_class_head(objective: str, network: Network) -> None:
    """Refuse a network whose rows have no summary, or whose head is still the one over the words.

    Raises:
        ConfigError: there is nothing to read a class from, or the words would be taken for classes.
    """
    network.require("summary", purpose=objective)
    n_outputs = n_outputs_of(network)
    if "words" in network.abilities and n_outputs == as_words(network, purpose=objective).config.vocab_size:
        raise ConfigError(
            f"{objective} expects a head over classes, got {type(network).__name__} with its head over {n_outputs:,} "
            "words; add the transform Classifier(labels=...) to the run"
        )


def check_same_outputs(teacher: int, student: int, *, what: str) -> None:
    """Refuse a teacher of other words or classes.

    Raises:
        ConfigError: names both numbers.
    """
    if teacher != student:
        raise ConfigError(f"expected a teacher with the student's {student} {what}, got one with {teacher}")


def n_outputs_of(network: Network) -> int:
    """Outputs of a network's head, of whatever layer it is made."""
    head = network.head
    width = getattr(head, "in_features", network.summary_width)
    with torch.no_grad():
        outputs: Tensor = head(torch.zeros(1, width, device=next(network.parameters()).device))
    return outputs.shape[-1]
