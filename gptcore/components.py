"""Components that live outside the tree: installed packages name them under the entry points ``gptworks.components``.

An entry point is a module (or a function without arguments). Importing it defines kinds of configuration, or registers
families, adapters, exports, parts of the data or stages, by the same calls that those of the tree use::

    [project.entry-points."gptworks.components"]
    my-stage = "my_package.stage"
"""

from __future__ import annotations

import functools
import importlib.metadata
import inspect

from gptcore.errors import ConfigError

GROUP = "gptworks.components"


@functools.cache
def load_components() -> tuple[str, ...]:
    """Import every installed component, once a process; their names.

    Raises:
        ConfigError: one cannot be imported or registered; names it and its package.
    """
    points = importlib.metadata.entry_points(group=GROUP)
    for point in points:
        try:
            component = point.load()
            if inspect.isfunction(component):
                component()
        except Exception as error:
            package = point.dist.name if point.dist else "an unknown package"
            raise ConfigError(
                f"the component {point.name!r} ({point.value}) of {package} could not be loaded: {error}; "
                "fix or uninstall that package"
            ) from error
    return tuple(point.name for point in points)
