"""TextModel: prompts in, strings out.

It owns what a caller of a raw model forgets: the prompt template the model was trained with, its stop strings, and
prompts that are longer than the context (the front is cut, since the question stands at the end; half of the context
is always the prompt's, and an answer ends where the context does).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gptcore import checkpoint
from gptcore.data.ledger import Ledger
from gptcore.data.templates import PromptTemplate, template_by_name
from gptcore.errors import ConfigError
from gptcore.generate import Sampling, generate
from gptcore.models.base import Model
from gptcore.tokenizer import Tokenizer
from gptcore.transforms import Classifier

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextModel:
    """A language model that speaks text."""

    model: Model
    """The network."""
    tokenizer: Tokenizer
    """Its tokenizer."""
    template: PromptTemplate | None = None
    """The prompt template it was instructed with; None continues plain text."""

    @staticmethod
    def load(path: Path, *, template: str | None = None) -> TextModel:
        """Read a checkpoint; ``template`` overrides the one saved in it.

        Raises:
            ConfigError: it is a classifier, or there is no such template.
            CheckpointError: it is missing or damaged.
        """
        loaded = checkpoint.load(path)
        if any(isinstance(transform, Classifier) for transform in loaded.spec.transforms):
            raise ConfigError(
                f"{path} is a classifier, which has classes in the place of words; give the checkpoint of a language "
                "model, as pretrain and finetune-instruct leave it"
            )
        name = template or loaded.spec.template
        return TextModel(loaded.model, loaded.tokenizer, template_by_name(name) if name else None)

    def respond(
        self,
        prompts: Sequence[tuple[str, str]],
        *,
        sampling: Sampling,
        batch_size: int = 16,
        on_done: Callable[[int], None] | None = None,
        ledger: Ledger | None = None,
    ) -> list[str]:
        """Answers to (instruction, input) pairs, rendered through the template.

        Args:
            prompts: those of similar length are decoded together.
            sampling: how tokens are drawn, and how many.
            batch_size: prompts decoded together.
            on_done: called with the number of finished prompts.
            ledger: counts the prompts in the stage ``answer``, and those that were cut.
        """
        rendered = [self._encode(instruction, extra, sampling, ledger) for instruction, extra in prompts]
        order = sorted(range(len(rendered)), key=lambda i: len(rendered[i]))
        answers = [""] * len(rendered)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            for row, text in zip(rows, self.complete([rendered[r] for r in rows], sampling=sampling), strict=True):
                answers[row] = text
            if on_done:
                on_done(start + len(rows))
        return answers

    def _encode(self, instruction: str, extra: str, sampling: Sampling, ledger: Ledger | None) -> list[int]:
        if self.template is None:
            text = f"{instruction}\n{extra}" if extra else instruction
            ids = self.tokenizer.encode(text)
        else:
            ids = self.template.encode_prompt(instruction, extra, tokenizer=self.tokenizer)
        context = self.model.config.context_length
        room = max(context - sampling.max_new_tokens, context // 2, 1)  # a long answer does not cost the question
        if ledger is not None:
            ledger.count("answer", "in", split="test")
            ledger.count("answer", "kept", split="test")
            if len(ids) > room:
                ledger.count("answer", "cut", reason="prompt longer than the context allows", split="test")
        if len(ids) > room:
            logger.warning("a prompt of %d tokens was cut to its last %d", len(ids), room)
            ids = ids[-room:]
        return ids or [self.tokenizer.end_of_text]

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        sampling: Sampling,
        on_token: Callable[[int, int], None] | None = None,
    ) -> list[str]:
        """Continuations of token prompts, each ended before the first stop string."""
        stops = self.template.stop if self.template else ()

        def should_stop(ids: list[int]) -> bool:
            tail = self.tokenizer.decode(ids[-16:])
            return any(stop in tail for stop in stops)

        new = generate(
            self.model,
            prompts,
            sampling,
            end_token=self._end_token,
            should_stop=should_stop if stops else None,
            on_token=on_token,
        )
        return [_before(self.tokenizer.decode(ids), stops).strip() for ids in new]

    @property
    def _end_token(self) -> int:
        return self.template.end_id(self.tokenizer) if self.template else self.tokenizer.end_of_text


def _before(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.partition(stop)[0]
    return text
