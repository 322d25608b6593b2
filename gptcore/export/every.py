"""The exports that need no service; ``flows/export/every.py`` has the others and those of installed components."""

from __future__ import annotations

from typing import Literal, get_args

from gptcore.export.registry import Export, Option, register_export

Packing = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
"""How the matrices' numbers are packed; the library packs these, llama.cpp's own tool also the K-quants."""
PACKING = Option("packing", "How the matrices' numbers are packed.", default="f16", choices=get_args(Packing))

HF = register_export(
    Export(
        "hf",
        "a folder for transformers",
        "gptcore.export.hf:HFExporter",
        takes={"words": ("generate",), "classes": ("generate",)},
    )
)
GGUF = register_export(
    Export(
        "gguf",
        "a file for llama.cpp, and a Modelfile",
        "gptcore.export.gguf:GGUFExporter",
        takes={"words": ("generate",)},
        options=(PACKING,),
    )
)
PEFT = register_export(
    Export(
        "peft",
        "an adapter for peft, its base beside it",
        "gptcore.export.peft:PeftExporter",
        takes={"words": ("generate",)},
    )
)
