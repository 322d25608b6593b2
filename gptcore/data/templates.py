"""Prompt styles as data: how an instruction becomes the text that a model continues.

``alpaca`` is the style of Stanford Alpaca, https://github.com/tatsu-lab/stanford_alpaca; ``phi-3`` that of
https://huggingface.co/microsoft/Phi-3-mini-4k-instruct with its special tokens; ``chatml`` OpenAI's; ``short`` is for
tiny contexts. A user's text never becomes a special token, whatever it contains.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gptcore.config import Config, nearest
from gptcore.errors import ConfigError
from gptcore.tokenizer import END_OF_TEXT, Tokenizer

_FIELD = re.compile(r"\{(instruction|input)\}")


@dataclass(frozen=True)
class PromptTemplate(Config):
    """One prompt style."""

    name: str
    """As in ``template_by_name``."""
    with_input: str
    """The prompt, with the fields ``{instruction}`` and ``{input}``."""
    without_input: str
    """The prompt of an instruction that has no input."""
    end: str = END_OF_TEXT
    """Special token that ends the response; it is a target of training."""
    special_tokens: tuple[str, ...] = ()
    """Special tokens that the tokenizer must have besides ``<|endoftext|>``."""
    stop: tuple[str, ...] = ()
    """Text at which generation stops, should the end token not come."""

    def render_prompt(self, instruction: str, input: str = "") -> str:  # noqa: A002 (the name of the data's key)
        """The prompt as one text, for people to read; a model is given ``encode_prompt``."""
        return self._fill(self._form(input), instruction, input)

    def encode_prompt(self, instruction: str, input: str = "", *, tokenizer: Tokenizer) -> list[int]:  # noqa: A002
        """The prompt's token ids; only the style's own special tokens are special.

        Raises:
            ConfigError: the tokenizer lacks one of them.
        """
        self.check_tokenizer(tokenizer)
        specials = sorted({*self.special_tokens, self.end}, key=len, reverse=True)
        ids: list[int] = []
        for part in re.split("(" + "|".join(map(re.escape, specials)) + ")", self._form(input)):
            if part in tokenizer.special_tokens:
                ids.append(tokenizer.special_tokens[part])
            elif part:
                ids += tokenizer.encode(self._fill(part, instruction, input))
        return ids

    def encode_response(self, output: str, *, tokenizer: Tokenizer) -> list[int]:
        """The response's token ids, the end token last. Encoded apart from the prompt, as generation continues it."""
        return [*tokenizer.encode(output), self.end_id(tokenizer)]

    def end_id(self, tokenizer: Tokenizer) -> int:
        """Id of the token at which generation stops.

        Raises:
            ConfigError: the tokenizer lacks it.
        """
        self.check_tokenizer(tokenizer)
        return tokenizer.special_tokens[self.end]

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Refuse a tokenizer that lacks a special token of this style.

        Raises:
            ConfigError: names the missing tokens and the styles that need none.
        """
        missing = [t for t in dict.fromkeys((*self.special_tokens, self.end)) if t not in tokenizer.special_tokens]
        if missing:
            plain = ", ".join(name for name, template in _TEMPLATES.items() if not template.special_tokens)
            raise ConfigError(
                f"template {self.name!r} needs the special tokens {', '.join(missing)}, which tokenizer "
                f"{tokenizer.name!r} lacks; add them with Tokenizer.with_special_tokens before the model is trained, "
                f"or choose a template without any ({plain})"
            )

    def _form(self, input: str) -> str:  # noqa: A002
        return self.with_input if input else self.without_input

    @staticmethod
    def _fill(form: str, instruction: str, input: str) -> str:  # noqa: A002
        values = {"instruction": instruction, "input": input}
        return _FIELD.sub(lambda match: values[match[1]], form)  # one pass: a value that holds "{input}" stays as it is


_ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}"
)
_TEMPLATES = {
    template.name: template
    for template in (
        PromptTemplate(
            name="alpaca",
            with_input=_ALPACA + "\n\n### Input:\n{input}\n\n### Response:\n",
            without_input=_ALPACA + "\n\n### Response:\n",
            stop=("\n### Instruction:",),
        ),
        PromptTemplate(
            name="phi-3",
            with_input="<|user|>\n{instruction}\n{input}<|end|>\n<|assistant|>\n",
            without_input="<|user|>\n{instruction}<|end|>\n<|assistant|>\n",
            end="<|end|>",
            special_tokens=("<|user|>", "<|assistant|>", "<|end|>"),
        ),
        PromptTemplate(
            name="chatml",
            with_input="<|im_start|>user\n{instruction}\n{input}<|im_end|>\n<|im_start|>assistant\n",
            without_input="<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n",
            end="<|im_end|>",
            special_tokens=("<|im_start|>", "<|im_end|>"),
        ),
        PromptTemplate(
            name="short",
            with_input="Q: {instruction}\n{input}\nA: ",
            without_input="Q: {instruction}\nA: ",
            stop=("\nQ: ",),
        ),
    )
}


def template_names() -> tuple[str, ...]:
    """The names of all prompt styles."""
    return tuple(_TEMPLATES)


def template_by_name(name: str) -> PromptTemplate:
    """The prompt style of that name.

    Raises:
        ConfigError: there is none; the text gives the nearest name.
    """
    if name not in _TEMPLATES:
        raise ConfigError(f"unknown template {name!r}{nearest(name, _TEMPLATES)}")
    return _TEMPLATES[name]
