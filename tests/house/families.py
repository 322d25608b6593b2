"""Families of models that live only here: with transformers' form, with GGUF's too, with none, unregistered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptcore.errors import CheckpointError
from gptcore.models import GPT, Family, GPTConfig, register_family
from gptcore.models.family import HFForm
from gptcore.models.gguf_graph import GGUFNumbers
from gptcore.models.gpt.gguf import GGUF
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


@dataclass(frozen=True)
class KnotConfig(GPTConfig):
    """A decoder that llama.cpp has a graph of its own for."""

    def build(self) -> Knot:
        return Knot(self)


class Knot(GPT):
    """A decoder."""


def hf_form(name: str, kind: type[GPTConfig]) -> HFForm:
    """GPT-2's with another name."""

    def to_config(config: GPTConfig, *, end_of_text: int) -> dict[str, Any]:
        own = {"model_type": name, "architectures": [f"{name.title()}LMHeadModel"]}
        return {**HF.to_config(config, end_of_text=end_of_text), **own}

    def from_config(data: dict[str, Any]) -> GPTConfig:
        if data.get("model_type") != name:
            raise CheckpointError(f"expected a {name}, got {data.get('model_type')!r}")
        sizes = HF.from_config({**data, "model_type": "gpt2"})
        return kind(**vars(sizes))

    return replace(HF, model_type=name, to_config=to_config, from_config=from_config, classifier=None)


class AsGPT2:
    """A file of a knot, read as one of GPT-2."""

    def __init__(self, file: GGUFNumbers) -> None:
        self._file = file

    def number(self, name: str) -> float:
        """A field."""
        return self._file.number(name.replace("gpt2.", "knot."))

    def dense(self, name: str) -> NDArray[np.float32]:
        """A tensor."""
        return self._file.dense(name)


def from_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A knot's fields to ``config.json``."""
    renamed = {name.replace("knot.", "gpt2."): value for name, value in fields.items()}
    return {**GGUF.from_fields(renamed), "model_type": "knot"}


TAIL = register_family(Family(name="tail", config=TailConfig, network=Tail, hf=hf_form("tail", TailConfig)))
BARE = register_family(Family(name="bare", config=BareConfig, network=Bare))
KNOT = register_family(
    Family(
        name="knot",
        config=KnotConfig,
        network=Knot,
        hf=hf_form("knot", KnotConfig),
        gguf=replace(
            GGUF,
            architecture="knot",
            from_fields=from_fields,
            graph=lambda file, tokens: GGUF.graph(AsGPT2(file), tokens),
        ),
    )
)
