"""The entry point of ``gptworks``.

The commands are imported in here, since that loads installed components, and one that cannot be loaded is a deliberate
error like any.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import sys
from collections.abc import Sequence

from rich.console import Console

from eval.errors import EvalError
from flows.services.state import running_addresses
from flows.settings import apply_environment, read_settings
from gptcore.allocator import restart_with_huge_pages
from gptcore.errors import GptcoreError


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point: deliberate errors end in one clear message and their own exit code."""
    if arguments is None:
        restart_with_huge_pages()
        # python would look for cycles once more among all that torch and Prefect have made: seconds for nothing
        atexit.register(gc.freeze)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    console = Console(stderr=True)
    try:
        from flows.cli.app import app
        from flows.cli.models import quiet_prefect

        for name, address in running_addresses(read_settings().home).items():
            os.environ.setdefault(name, address)
        apply_environment(read_settings())
        quiet_prefect()
        app(args=None if arguments is None else list(arguments))
    except (GptcoreError, EvalError) as error:
        console.print(f"[bold red]error:[/] {type(error).__name__}: ", end="")
        console.print(str(error), markup=False, soft_wrap=True)
        sys.exit(error.exit_code)
