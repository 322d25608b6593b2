"""OpenAI's requests: https://platform.openai.com/docs/api-reference/chat and .../completions.

top_k, min_p, repetition_penalty and truncate are this server's own (``extra_body`` in the official client).
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flows.serving.forms import refuse_unsupported, request_of, reserved, sampling_of, seeds, turns_of
from flows.serving.refusal import Refusal
from flows.serving.served import Served
from gptcore.generation import Request, Sampling

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "web_search_options": (),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
}
"""Fields that this server does not understand, with the values that do not ask for anything."""
_NO_EFFECT = (
    "user",
    "metadata",
    "store",
    "service_tier",
    "parallel_tool_calls",
    "prompt_cache_key",
    "safety_identifier",
    "verbosity",
)
"""Fields that change nothing in an answer."""


class StreamOptions(BaseModel):
    """What a stream tells beside the text."""

    model_config = ConfigDict(extra="ignore")
    include_usage: bool = False


class Asked(BaseModel):
    """The fields that both kinds of completion have."""

    model_config = ConfigDict(extra="forbid")
    model: str
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = Field(default=None, ge=1)
    stop: str | list[str] | None = None
    seed: int | None = None
    max_tokens: int | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    truncate: bool = False

    @model_validator(mode="before")
    @classmethod
    def _sorted(cls, values: Any) -> Any:
        """Refuse what is not understood, leave out what has no effect."""
        if not isinstance(values, dict):
            return values
        refuse_unsupported(values, _NEUTRAL)
        return {name: value for name, value in values.items() if name not in _NEUTRAL and name not in _NO_EFFECT}

    def sampling(self, served: Served, *, max_tokens: int | None) -> Sampling:
        """As the model takes it, by OpenAI's defaults."""
        return sampling_of(
            served,
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            seed=self.seed,
        )

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the counts."""
        return self.stream_options is not None and self.stream_options.include_usage


class Part(BaseModel):
    """A piece of a message; only text is understood."""

    type: str
    text: str | None = None


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="ignore")
    role: str
    content: str | list[Part] | None = None

    def text(self) -> str:
        """The content as one text.

        Raises:
            Refusal: a part is not text.
        """
        if isinstance(self.content, list):
            other = next((part.type for part in self.content if part.type != "text"), None)
            if other is not None:
                raise Refusal(f"a message holds {other!r}; the model reads text alone", param="messages")
            return "".join(part.text or "" for part in self.content)
        return self.content or ""


class ChatAsked(Asked):
    """The body of /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = Field(default=None, ge=0, le=20)

    def requests(self, served: Served) -> tuple[list[Request], int]:
        """One request for each choice, and the tokens of old messages that were left out."""
        limit = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        sampling = self.sampling(served, max_tokens=limit)
        turns = turns_of([(message.role, message.text()) for message in self.messages])
        room = served.context_length - reserved(served, sampling) if self.truncate else 2**62
        ids, n_cut = served.text.encode_chat(turns, room=room)
        request = request_of(
            served,
            ids,
            sampling,
            stop=self.stop,
            cut=self.truncate,
            n_alternatives=(self.top_logprobs or 0) if self.logprobs else None,
            templated=True,
        )
        return seeds(request, self.n or 1), n_cut


class CompletionAsked(Asked):
    """The body of /v1/completions: the text is continued as it is, without the prompt template."""

    prompt: str | list[int] | list[str] | list[list[int]] = ""
    logprobs: int | None = Field(default=None, ge=0, le=5)

    def requests(self, served: Served) -> tuple[list[Request], int]:
        """One request for each prompt and choice; nothing is left out before."""
        sampling = self.sampling(served, max_tokens=16 if self.max_tokens is None else self.max_tokens)
        prompts: list[Any] = [self.prompt] if isinstance(self.prompt, str) else list(self.prompt)
        if prompts and isinstance(prompts[0], int):
            prompts = [prompts]
        found = []
        for prompt in prompts:
            ids = served.text.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
            request = request_of(served, ids, sampling, stop=self.stop, cut=self.truncate, n_alternatives=self.logprobs)
            found += seeds(request, self.n or 1)
        if not found:
            raise Refusal("prompt is an empty list; give a text", param="prompt")
        return found, 0
