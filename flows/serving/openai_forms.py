"""OpenAI's requests: https://platform.openai.com/docs/api-reference/chat and .../completions.

top_k, min_p, repetition_penalty and truncate are this server's own (``extra_body`` in the official client).
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from flows.serving.forms import Drawing, Neutral, encode_chat, seeds
from flows.serving.openai_pages import ChatPage, OpenAIPage
from flows.serving.refusal import Refusal
from flows.serving.served import Served
from gptcore.generation import Request


class StreamOptions(BaseModel):
    """What a stream includes beside the text."""

    model_config = ConfigDict(extra="ignore")
    include_usage: bool = False


class Asked(Drawing):
    """The fields that both kinds of completion have."""

    neutral: ClassVar[Neutral] = {
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
    no_effect = (
        *("user", "metadata", "store", "service_tier", "parallel_tool_calls", "prompt_cache_key"),
        *("safety_identifier", "verbosity"),
    )
    model: str
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    n: int = Field(default=1, ge=1)
    max_tokens: int | None = None
    truncate: bool = False


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
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=20)

    def page(self, served: Served) -> OpenAIPage:
        """How the answer is written."""
        return ChatPage(served, self.logprobs, self.n, with_usage=self.stream_options.include_usage)

    def requests(self, served: Served) -> tuple[list[Request], int]:
        """One request for each choice, and the tokens of old messages that were left out."""
        limit = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        sampling = self.sampling(served, max_tokens=limit)
        messages = [(message.role, message.text()) for message in self.messages]
        ids, n_cut = encode_chat(served, messages, sampling, cut=self.truncate)
        n = self.top_logprobs if self.logprobs else None
        request = self.request(served, ids, sampling, cut=self.truncate, n_alternatives=n, templated=True)
        return seeds(request, self.n), n_cut


class CompletionAsked(Asked):
    """The body of /v1/completions: the text is continued as it is, without the prompt template."""

    prompt: str | list[int] | list[str] | list[list[int]] = ""
    max_tokens: int | None = 16
    logprobs: int | None = Field(default=None, ge=0, le=5)

    def page(self, served: Served) -> OpenAIPage:
        """How the answer is written."""
        with_usage = self.stream_options.include_usage
        return OpenAIPage(served, self.logprobs is not None, self.n, with_usage=with_usage)

    def requests(self, served: Served) -> tuple[list[Request], int]:
        """One request for each prompt and choice; nothing is left out before."""
        sampling = self.sampling(served, max_tokens=self.max_tokens)
        prompts: list[Any] = [self.prompt] if isinstance(self.prompt, str) else list(self.prompt)
        if not prompts:
            raise Refusal("prompt is an empty list; give a text", param="prompt")
        if isinstance(prompts[0], int):
            prompts = [prompts]
        found = []
        for prompt in prompts:
            ids = served.text.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
            cut, n = self.truncate, self.logprobs
            request = self.request(served, ids, sampling, cut=cut, n_alternatives=n, templated=False)
            found += seeds(request, self.n)
        return found, 0
