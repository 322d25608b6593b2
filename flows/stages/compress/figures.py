"""The figure of the compression table: what quality costs in bytes and in time."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flows.figures.svg import FIRST, GRID, INK, MUTED, SECOND, clear_frame, inline_svg
from flows.stages.compress.result import CompressedForm


def tradeoff_svg(variants: Sequence[CompressedForm], *, name: str) -> str:
    """Held-out perplexity of each variant over its size and over its speed, the original in another colour.

    Args:
        variants: the forms, the original first.
        name: unique on the page.
    """
    figure = Figure(figsize=(7.6, 3.4), layout="constrained")
    by_size, by_speed = figure.subplots(1, 2, sharey=True)
    _points(by_size, variants, [row.bytes / 1e6 for row in variants], title="size on disk, MB")
    _points(by_speed, variants, [row.tokens_per_second for row in variants], title="tokens a second, one prompt")
    by_size.set_ylabel("held-out perplexity", color=MUTED)
    return inline_svg(figure, name=name)


def _points(axes: Axes, variants: Sequence[CompressedForm], places: Sequence[float], *, title: str) -> None:
    colours = [SECOND, *[FIRST] * (len(variants) - 1)]
    perplexities = [row.perplexity for row in variants]
    axes.scatter(places, perplexities, c=colours, s=22, zorder=2)
    for place, row in zip(places, variants, strict=True):
        axes.annotate(row.name, (place, row.perplexity), (4, 4), textcoords="offset points", fontsize=8, color=INK)
    axes.set_xlabel(title, color=MUTED)
    if min(perplexities) > 0 and max(perplexities) > 4 * min(perplexities):
        axes.set_yscale("log")
    axes.margins(x=0.18, y=0.12)
    axes.grid(color=GRID, linewidth=0.8)
    clear_frame(axes)
