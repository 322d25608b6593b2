"""The commands that talk to a model: generate and chat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from flows.cli.models import CheckpointArgument
from flows.settings import read_settings

if TYPE_CHECKING:
    from gptcore.text import TextModel

TokensOption = Annotated[int, typer.Option(help="Maximum number of tokens to generate.")]
TemperatureOption = Annotated[
    float, typer.Option(help="0 takes the most likely token; higher values sample more widely.")
]
TopKOption = Annotated[int | None, typer.Option(help="Sample among the k most likely tokens only.")]
TopPOption = Annotated[
    float | None, typer.Option(help="Sample among the most likely tokens that reach this probability.")
]
MinPOption = Annotated[
    float | None, typer.Option(help="Sample among tokens with at least this share of the highest probability.")
]
PenaltyOption = Annotated[
    float, typer.Option("--repetition-penalty", help="Above 1 penalizes tokens that occurred before.")
]
StopOption = Annotated[list[str] | None, typer.Option(help="Text that ends the answer; repeatable.")]
SeedOption = Annotated[int, typer.Option(help="Seed of sampling.")]
TemplateOption = Annotated[str | None, typer.Option(help="Prompt template instead of the checkpoint's own.")]


def generate(
    checkpoint: CheckpointArgument,
    prompt: Annotated[str, typer.Argument(help="The text to continue, or the instruction.")],
    max_tokens: TokensOption = 64,
    temperature: TemperatureOption = 0.0,
    top_k: TopKOption = None,
    top_p: TopPOption = None,
    min_p: MinPOption = None,
    repetition_penalty: PenaltyOption = 1.0,
    stop: StopOption = None,
    seed: SeedOption = 0,
    template: TemplateOption = None,
    draft: Annotated[
        str | None,
        typer.Option(
            help="Smaller checkpoint with the same tokenizer for speculative decoding: the same greedy answer, sooner."
        ),
    ] = None,
) -> None:
    """Continue a prompt, or answer it if the model was fine-tuned on instructions."""
    from gptcore.generation import Sampling

    sampling = Sampling(max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed)
    if draft is not None:
        model, helper = _load(checkpoint, template), _load(draft, template)
        text, found = model.respond_with_draft(prompt, draft=helper, sampling=sampling, stop=stop or ())
        Console().print(text, markup=False, soft_wrap=True)
        Console(stderr=True).print(
            f"{len(found.tokens)} tokens in {found.n_passes} passes of the model; of {found.n_drafted} drafted tokens "
            f"{found.n_accepted} were accepted",
            style="dim",
            soft_wrap=True,
        )
        return
    answers = _load(checkpoint, template).respond([(prompt, "")], sampling=sampling, stop=stop or ())
    Console().print(answers[0], markup=False, soft_wrap=True)


def chat(
    checkpoint: CheckpointArgument,
    max_tokens: TokensOption = 128,
    temperature: TemperatureOption = 0.7,
    top_k: TopKOption = 50,
    top_p: TopPOption = None,
    min_p: MinPOption = None,
    repetition_penalty: PenaltyOption = 1.0,
    stop: StopOption = None,
    seed: SeedOption = 0,
    template: TemplateOption = None,
) -> None:
    """Chat with an instruction-tuned model; each line is answered by itself. An empty line or Ctrl-D ends it."""
    from gptcore.generation import Sampling

    sampling = Sampling(max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed)
    model, console = _load(checkpoint, template), Console()

    def show(_: int, text: str) -> None:
        console.print(text, end="", markup=False, highlight=False, soft_wrap=True)

    while True:
        try:
            line = console.input("[bold]> [/]").strip()
        except EOFError:
            return
        if not line:
            return
        model.respond([(line, "")], sampling=sampling, stop=stop or (), on_text=show)
        console.print()


def _load(checkpoint: str, template: str | None) -> TextModel:
    from flows.sources.hub import model_folder
    from gptcore.text import TextModel

    return TextModel.load(model_folder(checkpoint, read_settings().cache), template=template)
