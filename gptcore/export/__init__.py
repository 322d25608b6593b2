"""Checkpoints to and from other programs' formats."""

from gptcore.export.hf import export_hf, import_hf

__all__ = ["export_hf", "import_hf"]
