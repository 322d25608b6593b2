"""How raw input becomes what a network reads; the readers of a checkpoint lie beside its weights.

Every name here is public; what the modules hold besides belongs to them.
"""

from __future__ import annotations

from gptcore.readers.base import Reader
from gptcore.readers.beside import Readers
from gptcore.readers.images import ImageReader
from gptcore.readers.text import LongInputs, TextReader, TextRow, cut_long

__all__ = ["ImageReader", "LongInputs", "Reader", "Readers", "TextReader", "TextRow", "cut_long"]
