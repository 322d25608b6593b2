"""Checkpoints to and from other programs' formats; each is a module, and a line in the table of exports."""

from gptcore.export.registry import Export, Option, register_export

__all__ = ["Export", "Option", "register_export"]
