"""``gptworks export``: what it can write, and with which options, is read from the table of exports."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from flows.cli.models import CheckpointArgument
from flows.export.every import find_export, list_exports
from flows.settings import read_settings
from gptcore.export.registry import Option


class WithExports:
    """A command whose parameter ``options`` is an option for each setting of an export.

    The table is read when the command line is, so that installed components are in it.
    """

    def __init__(self, command: Callable[..., None]) -> None:
        """Stand for ``command``."""
        functools.update_wrapper(self, command)
        self._command = command
        self._parameters = inspect.signature(command, eval_str=True).parameters

    @property
    def __signature__(self) -> inspect.Signature:
        """What typer makes options of.

        Raises:
            ConfigError: a component cannot be loaded.
        """
        shown: list[inspect.Parameter] = []
        annotations = {"out": _out_argument(), "to": _to_option()}
        for name, parameter in self._parameters.items():
            if name == "options":
                shown += map(_parameter, _options().values())
            else:
                shown.append(parameter.replace(annotation=annotations.get(name, parameter.annotation)))
        return inspect.Signature([each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in shown])

    def __call__(self, **given: Any) -> None:
        """Call the command with what typer has read."""
        options = {name: given.pop(name) for name in _options()}
        self._command(**given, options=options)


@WithExports
def export(*, checkpoint: CheckpointArgument, out: str, to: str = "hf", options: Mapping[str, str | None]) -> None:
    """Write a checkpoint in another program's format; it is read back and compared before it takes its place."""
    form = find_export(to)
    form.open(options)  # what cannot be is refused before a model is fetched
    from flows.sources.hub import model_folder
    from gptcore.export.exporter import write_export

    source, console = model_folder(checkpoint, read_settings().cache), Console()
    done = write_export(form, source, Path(out) if not form.out else out, options=options, say=console.print)
    console.print(f"{done.place}; {done.agreement}" if done.agreement else done.place, soft_wrap=True, markup=False)
    if done.unread:
        console.print(f"not read back: {done.unread}", soft_wrap=True, markup=False)


def _options() -> dict[str, Option]:
    return {option.name: option for form in list_exports() for option in form.options}


def _parameter(option: Option) -> inspect.Parameter:
    users = ", ".join(form.name for form in list_exports() if option in form.options)
    values = f" One of {', '.join(option.choices)}." if option.choices else ""
    default = f" By default {option.default}." if option.default else ""
    text = f"Only with --to {users}: {option.sentence}{values}{default}"
    annotation = Annotated[str | None, typer.Option(option.flag, help=text)]
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _to_option() -> Any:
    forms = list_exports()
    text = "; ".join(f"{form.name}: {form.sentence}" for form in forms)
    metavar = f"[{'|'.join(form.name for form in forms)}]"
    return Annotated[str, typer.Option(metavar=metavar, help=f"{text}.")]


def _out_argument() -> Any:
    others = "".join(f"; {form.out} with --to {form.name}" for form in list_exports() if form.out)
    return Annotated[str, typer.Argument(help=f"Folder to write{others}.")]
