"""Every export: those of ``gptcore/export/every.py``, those that need a service, and those of installed components."""

from __future__ import annotations

from gptcore.components import load_components
from gptcore.config import nearest
from gptcore.errors import ConfigError
from gptcore.export.every import PACKING
from gptcore.export.registry import REGISTERED, Export, Option, register_export

OLLAMA = register_export(
    Export(
        "ollama",
        "a model on a running Ollama server",
        "flows.export.ollama:OllamaExporter",
        takes={"words": ("generate",)},
        options=(PACKING, Option("host", "Ollama server instead of OLLAMA_HOST.")),
        out="the model's name",
    )
)
MLFLOW = register_export(
    Export(
        "mlflow",
        "a folder for mlflow models serve",
        "flows.export.mlflow_models:MLflowExporter",
        takes={"words": ("generate",), "classes": ("words", "summary")},
    )
)


def list_exports() -> tuple[Export, ...]:
    """Every export, those of installed components among them.

    Raises:
        ConfigError: a component cannot be loaded.
    """
    load_components()
    return tuple(REGISTERED.values())


def find_export(name: str) -> Export:
    """The export of this name.

    Raises:
        ConfigError: it is unknown; names the nearest.
    """
    known = {export.name: export for export in list_exports()}
    if name not in known:
        raise ConfigError(f"--to is {name!r}{nearest(name, known)}")
    return known[name]
