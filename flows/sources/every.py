"""Every kind of source: whoever reads a chain from JSON must know them all."""

from flows.sources.base import SourceConfig
from flows.sources.book import Book
from flows.sources.demo import Demo
from flows.sources.files import Files

SOURCES: tuple[type[SourceConfig], ...] = (Demo, Book, Files)
"""The kinds that a preset or a user names; data that was added later comes on top (``flows/recipes/grown.py``)."""
