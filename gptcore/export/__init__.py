"""Checkpoints to and from other programs' formats."""

from gptcore.export.gguf import GGUFExport, Packing, export_gguf, import_gguf
from gptcore.export.hf import export_hf, import_hf
from gptcore.export.peft import export_peft, import_peft

__all__ = [
    "GGUFExport",
    "Packing",
    "export_gguf",
    "export_hf",
    "export_peft",
    "import_gguf",
    "import_hf",
    "import_peft",
]
