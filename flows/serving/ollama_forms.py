"""Ollama's requests: https://docs.ollama.com/api."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flows.serving.forms import refuse_unsupported, request_of, reserved, sampling_of, turns_of
from flows.serving.refusal import Refusal
from flows.serving.served import Served
from gptcore.generation import Request, Sampling

_OF_THE_MACHINE = (
    "numa",
    "num_ctx",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "low_vram",
    "f16_kv",
    "logits_all",
    "vocab_only",
    "use_mmap",
    "use_mlock",
    "embedding_only",
    "num_thread",
    "num_keep",
    "repeat_last_n",
    "penalize_newline",
    "mirostat_tau",
    "mirostat_eta",
)
"""Options about how a runner uses its machine, or that only tune what is refused or off: without effect here."""
_NEUTRAL_OPTIONS: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "mirostat": (0,),
    "tfs_z": (1,),
    "typical_p": (1,),
}
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "format": ("",),
    "tools": ([],),
    "images": ([],),
    "template": ("",),
    "suffix": ("",),
}
_NO_EFFECT = ("keep_alive", "shift", "width", "height", "steps")


class Options(BaseModel):
    """Sampling values, with Ollama's defaults."""

    model_config = ConfigDict(extra="forbid")
    seed: int | None = None
    num_predict: int | None = None
    temperature: float | None = 0.8
    top_k: int | None = 40
    top_p: float | None = 0.9
    min_p: float | None = None
    repeat_penalty: float | None = 1.0
    stop: str | list[str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _sorted(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        refuse_unsupported(values, _NEUTRAL_OPTIONS)
        dropped = (*_NEUTRAL_OPTIONS, *_OF_THE_MACHINE)
        return {name: value for name, value in values.items() if name not in dropped and value is not None}


class Asked(BaseModel):
    """The fields that generate and chat have in common."""

    model_config = ConfigDict(extra="forbid")
    model: str
    stream: bool | None = True
    options: Options | None = None
    think: bool | str | None = None
    truncate: bool | None = True
    logprobs: bool | None = False
    top_logprobs: int | None = Field(default=None, ge=0, le=20)

    @model_validator(mode="before")
    @classmethod
    def _sorted(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        refuse_unsupported(values, _NEUTRAL)
        return {name: value for name, value in values.items() if name not in _NEUTRAL and name not in _NO_EFFECT}

    @property
    def streams(self) -> bool:
        """Whether the answer is streamed; it is unless the request says."""
        return self.stream is not False

    @property
    def cuts(self) -> bool:
        """Whether a prompt that is too long is cut; it is unless the request says."""
        return self.truncate is not False

    def sampling(self, served: Served) -> Sampling:
        """As the model takes it; a negative ``num_predict`` is no limit."""
        if self.think:
            raise Refusal(f'"{self.model}" does not support thinking', param="think")
        options = self.options or Options()
        n = options.num_predict
        return sampling_of(
            served,
            max_tokens=None if n is not None and n < 0 else n,
            temperature=0.8 if options.temperature is None else options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            min_p=options.min_p,
            repetition_penalty=options.repeat_penalty or 1.0,
            seed=options.seed,
        )

    def request(self, served: Served, ids: list[int], sampling: Sampling, *, templated: bool) -> Request:
        """The prompt as the model takes it."""
        return request_of(
            served,
            ids,
            sampling,
            stop=(self.options or Options()).stop,
            cut=self.cuts,
            n_alternatives=(self.top_logprobs or 0) if self.logprobs else None,
            templated=templated,
        )


class GenerateAsked(Asked):
    """The body of /api/generate."""

    prompt: str | None = ""
    system: str | None = ""
    raw: bool | None = False
    context: list[int] | None = None

    def requests(self, served: Served) -> tuple[list[Request], int]:
        """The one request."""
        sampling, text = self.sampling(served), self.prompt or ""
        if self.raw:
            ids = served.text.tokenizer.encode(text)
        else:
            ids = served.text.encode(f"{self.system}\n\n{text}" if self.system else text)
        return [self.request(served, [*(self.context or []), *ids], sampling, templated=not self.raw)], 0


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="ignore")
    role: str
    content: str | None = ""
    images: list[Any] | None = None


class ChatAsked(Asked):
    """The body of /api/chat."""

    messages: list[Message] = []

    def requests(self, served: Served) -> tuple[list[Request], int]:
        """The one request, and the tokens of old messages that were left out."""
        if any(message.images for message in self.messages):
            raise Refusal("a message holds images; the model reads text alone", param="messages")
        sampling = self.sampling(served)
        turns = turns_of([(message.role, message.content or "") for message in self.messages])
        room = served.context_length - reserved(served, sampling) if self.cuts else 2**62
        ids, n_cut = served.text.encode_chat(turns, room=room)
        return [self.request(served, ids, sampling, templated=True)], n_cut


class Named(BaseModel):
    """The body of /api/show; older clients say ``name``."""

    model_config = ConfigDict(extra="ignore")
    model: str = ""
    name: str = ""
