"""Ollama's requests: https://docs.ollama.com/api."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from flows.serving.forms import Drawing, Form, Neutral, encode_chat
from flows.serving.ollama_pages import OllamaChatPage, OllamaPage
from flows.serving.refusal import Refusal
from flows.serving.served import Served
from gptcore.generation import Request, Sampling


class Options(Drawing):
    """Sampling values, with Ollama's defaults."""

    neutral: ClassVar[Neutral] = {
        "presence_penalty": (0,),
        "frequency_penalty": (0,),
        "mirostat": (0,),
        "tfs_z": (1,),
        "typical_p": (1,),
    }
    no_effect = (
        # about how a runner uses its machine
        *("numa", "num_ctx", "num_batch", "num_gpu", "main_gpu", "low_vram", "f16_kv", "logits_all", "vocab_only"),
        *("use_mmap", "use_mlock", "embedding_only", "num_thread", "num_keep"),
        # these only tune what is refused or off
        *("repeat_last_n", "penalize_newline", "mirostat_tau", "mirostat_eta"),
    )
    num_predict: int | None = None
    temperature: float = 0.8
    top_k: int | None = 40
    top_p: float | None = 0.9
    repetition_penalty: Annotated[float, AfterValidator(lambda value: value or 1.0)] = Field(
        default=1.0, alias="repeat_penalty"
    )  # Ollama takes 0 for "off"


class Asked(Form):
    """The fields that generate and chat have in common."""

    neutral: ClassVar[Neutral] = {
        "format": ("",),
        "tools": ([],),
        "images": ([],),
        "template": ("",),
        "suffix": ("",),
    }
    no_effect = ("keep_alive", "shift", "width", "height", "steps")
    model: str
    stream: bool = True
    options: Options = Options()
    think: bool | str = False
    truncate: bool = True
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=20)

    def sampling(self, served: Served) -> Sampling:
        """As the model takes it; a negative ``num_predict`` sets no limit."""
        if self.think:
            raise Refusal(f'"{self.model}" does not support thinking', param="think")
        n = self.options.num_predict
        return self.options.sampling(served, max_tokens=None if n is not None and n < 0 else n)

    def request(self, served: Served, ids: list[int], sampling: Sampling, *, templated: bool) -> Request:
        """The prompt as the model takes it."""
        n = self.top_logprobs if self.logprobs else None
        return self.options.request(served, ids, sampling, cut=self.truncate, n_alternatives=n, templated=templated)


class GenerateAsked(Asked):
    """The body of /api/generate."""

    prompt: str = ""
    system: str = ""
    raw: bool = False
    context: tuple[int, ...] = ()

    def page(self, served: Served) -> OllamaPage:
        """How the answer is written."""
        return OllamaPage(served, self.logprobs, self.model, with_context=not self.raw)

    def requests(self, served: Served) -> tuple[list[Request], int]:
        """The one request; none without a prompt."""
        if not self.prompt:
            return [], 0
        sampling, text = self.sampling(served), self.prompt
        if self.raw:
            ids = served.text.tokenizer.encode(text)
        else:
            ids = served.text.encode(f"{self.system}\n\n{text}" if self.system else text)
        return [self.request(served, [*self.context, *ids], sampling, templated=not self.raw)], 0


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="ignore")
    role: str
    content: str | None = ""
    images: list[Any] | None = None


class ChatAsked(Asked):
    """The body of /api/chat."""

    messages: tuple[Message, ...] = ()

    def page(self, served: Served) -> OllamaPage:
        """How the answer is written."""
        return OllamaChatPage(served, self.logprobs, self.model)

    def requests(self, served: Served) -> tuple[list[Request], int]:
        """The one request, none without a message; and the tokens of old messages that were left out."""
        if not self.messages:
            return [], 0
        if any(message.images for message in self.messages):
            raise Refusal("a message holds images; the model reads text alone", param="messages")
        sampling = self.sampling(served)
        messages = [(message.role, message.content or "") for message in self.messages]
        ids, n_cut = encode_chat(served, messages, sampling, cut=self.truncate)
        return [self.request(served, ids, sampling, templated=True)], n_cut


class Named(BaseModel):
    """The body of /api/show; older clients say ``name``."""

    model_config = ConfigDict(extra="ignore")
    model: str = ""
    name: str = ""
