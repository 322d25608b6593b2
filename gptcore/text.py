"""TextModel: prompts in, strings out.

It owns what a caller of a raw model forgets: the prompt template the model was trained with, its stop strings, and
prompts that are longer than the context (the front is cut, since the question stands at the end; half of the context
is always the prompt's, and an answer ends where the context does). A conversation becomes what the model was trained
on, one exchange after another.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from gptcore import checkpoint
from gptcore.data.ledger import Ledger
from gptcore.data.templates import PromptTemplate, template_by_name
from gptcore.errors import ConfigError, TokenizerMismatch
from gptcore.generation import Event, Generator, Request, Sampling, Speculated, speculate
from gptcore.kernels import prepare_for_inference
from gptcore.models.base import Model, Seq2Seq
from gptcore.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Turn:
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    """Who says it."""
    content: str
    """What is said."""


@dataclass(frozen=True)
class TextModel:
    """A language model that speaks text."""

    model: Model | Seq2Seq
    """The network."""
    tokenizer: Tokenizer
    """Its tokenizer."""
    template: PromptTemplate | None = None
    """The prompt template it was instructed with; None continues plain text."""

    @staticmethod
    def load(path: Path, *, template: str | None = None) -> TextModel:
        """Read a checkpoint; ``template`` overrides the one saved in it.

        Raises:
            ConfigError: its head gives no words, it cannot generate, or there is no such template.
            CheckpointError: it is missing or damaged.
        """
        loaded = checkpoint.load(path)
        loaded.model.require("generate", purpose=f"answers in text from {path}")
        if loaded.spec.head != "words":
            raise ConfigError(
                f"{path} has a head that gives {loaded.spec.head} in the place of words, so it cannot answer in text; "
                "give the checkpoint of a language model, as pretrain and finetune-instruct leave it"
            )
        name = template or loaded.spec.template
        model = cast(Model | Seq2Seq, prepare_for_inference(loaded.model))
        return TextModel(model, loaded.tokenizer, template_by_name(name) if name else None)

    @property
    def end_token(self) -> int:
        """The token that ends an answer."""
        return self.template.end_id(self.tokenizer) if self.template else self.tokenizer.end_of_text

    @property
    def stops(self) -> tuple[str, ...]:
        """The strings that end an answer, should the end token not come."""
        return self.template.stop if self.template else ()

    def respond(
        self,
        prompts: Sequence[tuple[str, str]],
        *,
        sampling: Sampling,
        stop: Sequence[str] = (),
        batch_size: int = 16,
        on_done: Callable[[int], None] | None = None,
        on_text: Callable[[int, str], None] | None = None,
        ledger: Ledger | None = None,
    ) -> list[str]:
        """Answers to (instruction, input) pairs, rendered through the template.

        Args:
            prompts: as many as there are.
            sampling: how tokens are drawn, and how many.
            stop: strings that end an answer besides the template's own.
            batch_size: prompts that are answered at the same time.
            on_done: called with the number of finished prompts.
            on_text: called with the number of a prompt and the next piece of its answer.
            ledger: counts the prompts in the stage ``answer``, and those that were cut.
        """
        requests = [
            self._request(self.encode(instruction, extra), sampling, stop, ledger) for instruction, extra in prompts
        ]
        n_done = 0

        def tell(number: int, event: Event) -> None:
            nonlocal n_done
            if on_text and event.text:
                on_text(number, event.text)
            if event.answer is not None:
                n_done += 1
                if on_done:
                    on_done(n_done)

        generator = Generator(self.model, tokenizer=self.tokenizer, slots=max(1, min(batch_size, len(requests))))
        return [answer.text.strip() for answer in generator.generate(requests, on_event=tell)]

    def respond_with_draft(
        self, instruction: str, *, draft: TextModel, sampling: Sampling, stop: Sequence[str] = (), n_ahead: int = 4
    ) -> tuple[str, Speculated]:
        """The answer that ``respond`` gives, with a smaller model drafting ahead, and how that went.

        Args:
            instruction: rendered through the template.
            draft: a model with the same tokenizer.
            sampling: greedy, without a repetition penalty; what the model itself would take is known only then.
            stop: strings that end the answer besides the template's own.
            n_ahead: tokens drafted before each check.

        Raises:
            ConfigError: the sampling is not greedy.
            TokenizerMismatch: the draft was trained with another tokenizer.
        """
        if sampling.temperature > 0 or sampling.repetition_penalty != 1.0:
            raise ConfigError(
                f"temperature is {sampling.temperature:g} and repetition_penalty {sampling.repetition_penalty:g}; with "
                "a draft they must be 0 and 1: leave them out, or the draft"
            )
        if draft.tokenizer.digest != self.tokenizer.digest:
            raise TokenizerMismatch(
                f"the draft was trained with the tokenizer {draft.tokenizer.name} "
                f"({draft.tokenizer.digest[:12]}), the model with {self.tokenizer.name} "
                f"({self.tokenizer.digest[:12]}); take a draft that was trained with the model's own"
            )
        context = min(self.model.config.context_length, draft.model.config.context_length)
        ids, room = self.encode(instruction), _prompt_room(context, sampling)
        _tell_cut(ids, room)
        found = speculate(
            self.model,
            ids[-room:],
            draft=draft.model,
            max_new_tokens=sampling.max_new_tokens,
            n_ahead=n_ahead,
            end_token=self.end_token,
        )
        text = self.tokenizer.decode(found.tokens)
        ends = (text.find(string) for string in (*self.stops, *stop))
        return text[: min((end for end in ends if end >= 0), default=len(text))].strip(), found

    def encode(self, instruction: str, extra: str = "") -> list[int]:
        """The prompt's token ids, at least one."""
        if self.template is not None:
            return self.template.encode_prompt(instruction, extra, tokenizer=self.tokenizer)
        text = f"{instruction}\n{extra}" if extra else instruction
        return self.tokenizer.encode(text) or [self.tokenizer.end_of_text]

    def encode_chat(self, turns: Sequence[Turn], *, room: int) -> tuple[list[int], int]:
        """A conversation as token ids, and how many tokens of its oldest exchanges were left out to keep to ``room``.

        What the system says stands before the first instruction; user turns in a row are one instruction. An answer
        that the last turn begins is gone on with. Without a template the turns are plain text, one after another. The
        last exchange is never left out, so the ids may be more than ``room``.

        Raises:
            ConfigError: nobody has asked anything.
        """
        if not any(turn.role == "user" for turn in turns):
            raise ConfigError("the conversation has no message of a user; its last one is what is answered")
        system = "\n\n".join(turn.content for turn in turns if turn.role == "system")
        exchanges = _exchanges(turns)
        whole = ids = self._encode_exchanges(exchanges, system)
        for first in range(1, len(exchanges)):
            if len(ids) <= room:
                break
            ids = self._encode_exchanges(exchanges[first:], system)
        return ids, len(whole) - len(ids)

    def _encode_exchanges(self, exchanges: Sequence[tuple[str, str | None]], system: str) -> list[int]:
        asked = [question for question, _ in exchanges]
        asked[0] = f"{system}\n\n{asked[0]}" if system else asked[0]
        answers = [answer for _, answer in exchanges]
        if self.template is None:
            texts = [text for pair in zip(asked, answers, strict=True) for text in pair if text is not None]
            return self.encode("\n".join(texts))
        ids: list[int] = []
        for question, answer in zip(asked[:-1], answers[:-1], strict=True):
            ids += self.encode(question) + self.template.encode_response(answer or "", tokenizer=self.tokenizer)
        return ids + self.encode(asked[-1]) + self.tokenizer.encode(answers[-1] or "")

    def _request(self, ids: list[int], sampling: Sampling, stop: Sequence[str], ledger: Ledger | None) -> Request:
        context = self.model.config.context_length
        room = _prompt_room(context, sampling)
        if ledger is not None:
            ledger.count("answer", "in", split="test")
            ledger.count("answer", "kept", split="test")
            if len(ids) > room:
                ledger.count("answer", "cut", reason="prompt longer than the context allows", split="test")
        _tell_cut(ids, room)
        return Request(
            ids,
            sampling,
            end_token=self.end_token,
            stop=(*self.stops, *stop),
            reserve=max(1, context - room),
            overflow="cut_front",
        )


def _prompt_room(context: int, sampling: Sampling) -> int:
    """The most tokens of a prompt: a long answer does not cost the question."""
    return max(context - sampling.max_new_tokens, context // 2, 1)


def _tell_cut(ids: Sequence[int], room: int) -> None:
    if len(ids) > room:
        logger.warning("a prompt of %d tokens was cut to its last %d", len(ids), room)


def _exchanges(turns: Sequence[Turn]) -> list[tuple[str, str | None]]:
    """Pairs of what was asked and what was answered; only the last one's answer may be None."""
    exchanges: list[tuple[str, str | None]] = []
    for turn in turns:
        asked, answer = exchanges[-1] if exchanges else ("", "")
        is_open = bool(exchanges) and answer is None
        if turn.role == "user" and is_open:
            exchanges[-1] = (f"{asked}\n\n{turn.content}", None)
        elif turn.role == "user":
            exchanges.append((turn.content, None))
        elif turn.role == "assistant" and is_open:
            exchanges[-1] = (asked, turn.content)
        elif turn.role == "assistant" and exchanges:
            exchanges[-1] = (asked, f"{answer}\n\n{turn.content}")
        elif turn.role == "assistant":
            exchanges.append(("", turn.content))
    return exchanges
