"""The named presets: a module each, with one function that returns the whole chain."""

from flows.recipes.presets.book import book
from flows.recipes.presets.demo import demo
from flows.recipes.presets.tiny import tiny

__all__ = ["PIPELINES", "book", "demo", "tiny"]

PIPELINES = {"demo": demo, "book": book, "tiny": tiny}
"""The presets by name."""
