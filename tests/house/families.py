"""Families of models that live only here: one with every form in other programs, one with none, one unregistered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from gptcore.errors import CheckpointError
from gptcore.models import GPT, Family, GPTConfig, register_family
from gptcore.models.family import HFForm
from gptcore.models.gpt.hf import HF


@dataclass(frozen=True)
class TailConfig(GPTConfig):
    """A decoder with a name of its own."""

    def build(self) -> Tail:
        return Tail(self)


class Tail(GPT):
    """A decoder."""


@dataclass(frozen=True)
class BareConfig(GPTConfig):
    """A decoder that no other program knows."""

    def build(self) -> Bare:
        return Bare(self)


class Bare(GPT):
    """A decoder."""


@dataclass(frozen=True)
class StrangeConfig(GPTConfig):
    """A decoder that is in no family."""

    def build(self) -> Strange:
        return Strange(self)


class Strange(GPT):
    """A decoder."""


def to_config(config: TailConfig, *, end_of_text: int) -> dict[str, Any]:
    """GPT-2's with another name."""
    return {**HF.to_config(config, end_of_text=end_of_text), "model_type": "tail", "architectures": ["TailLMHeadModel"]}


def from_config(data: dict[str, Any]) -> TailConfig:
    """Back."""
    if data.get("model_type") != "tail":
        raise CheckpointError(f"expected a tail, got {data.get('model_type')!r}")
    sizes = HF.from_config({**data, "model_type": "gpt2"})
    assert isinstance(sizes, GPTConfig)
    return TailConfig(**{name: getattr(sizes, name) for name in vars(sizes)})


FORM: HFForm = replace(HF, model_type="tail", to_config=to_config, from_config=from_config, classifier=None)
TAIL = register_family(Family(name="tail", config=TailConfig, network=Tail, hf=FORM))
BARE = register_family(Family(name="bare", config=BareConfig, network=Bare))
