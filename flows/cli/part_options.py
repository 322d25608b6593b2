"""Options of commands for the parts of the data, read from their table when a command is called.

So the parts of installed components have their options too, and one that cannot be loaded is reported as any error is.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.sources.parts import CORPUS, Part, join_words, list_parts
from gptcore.errors import ConfigError

DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", help="Folder with the catalogued data sets, instead of downloading them.")
]


class WithParts:
    """A command whose parameter ``rows`` is an option for each part, and whose ``kind`` is one that names a part."""

    def __init__(self, command: Callable[..., None], *, without: Collection[str] = ()) -> None:
        """Stand for ``command``, which is called without the parameters ``without``."""
        functools.update_wrapper(self, command)
        self._command = command
        self._parameters = inspect.signature(command, eval_str=True).parameters
        self._without = without

    @property
    def __signature__(self) -> inspect.Signature:
        """What typer makes options of.

        Raises:
            ConfigError: a component cannot be loaded, or its part has the option of something else.
        """
        shown: list[inspect.Parameter] = []
        for name, parameter in self._parameters.items():
            if name == "rows":
                shown += map(_rows_option, list_parts())
            elif name == "kind":
                shown.append(parameter.replace(annotation=_kind_option()))
            elif name not in self._without:
                shown.append(parameter)
        names = [parameter.name for parameter in shown]
        for part in list_parts():
            if names.count(_variable(part)) > 1:
                raise ConfigError(
                    f"the part {part.name!r} has the option {part.option}, which is taken; choose another"
                )
        return inspect.Signature([each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in shown])

    def __call__(self, **given: Any) -> None:
        """Call the command with what typer has read."""
        if "rows" in self._parameters:
            found = {part.name: given.pop(_variable(part)) for part in list_parts()}
            given["rows"] = {name: path for name, path in found.items() if path is not None}
        self._command(**given)


def _variable(part: Part) -> str:
    return part.kind.replace("-", "_")


def _rows_option(part: Part) -> inspect.Parameter:
    text = f"Own {part.title}: jsonl, json, csv, tsv or parquet with {part.columns}."
    annotation = Annotated[Path | None, typer.Option(part.option, help=text)]
    return inspect.Parameter(_variable(part), inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _kind_option() -> Any:
    kinds = join_words([CORPUS, *(part.kind for part in list_parts())], "or")
    return Annotated[
        str | None, typer.Option(help=f"Kind of data: {kinds}; by default recognised by the columns of each file.")
    ]
