"""Loss curves and confusion matrices: for MLflow as they are, and inline in the report page as SVG that takes its
colours from the page, so that one drawing serves light and dark alike.

In the SVG each colour that is drawn with is replaced by a CSS colour of the page. Text stays text.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

INK, MUTED, GRID, FIRST, SECOND = "#111113", "#5c5c5e", "#d4d4d7", "#2a6fb1", "#d9770b"
"""Colours to draw with; in the page its own take their place."""
_PAGE_COLOURS = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    FIRST: "var(--series-1)",
    SECOND: "var(--series-2)",
}
MAX_POINTS = 300
"""Points of one curve; a longer history is thinned evenly, its last point kept."""
MAX_CLASSES = 24
"""A confusion matrix of more classes is not drawn."""
_LONGEST_LABEL = 18


def loss_figure(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Training and held-out loss (nats) over the optimizer steps.

    ``history`` holds lines with ``step`` and now and then ``train/loss`` or ``val/loss``.
    """
    figure = Figure(figsize=(5.2, 2.9), layout="constrained")
    axes = figure.subplots()
    # held-out figures are few and single points must show, so these have marks
    for key, label, colour, marker in (
        ("train/loss", "training", FIRST, ""),
        ("val/loss", "held out", SECOND, "o"),
    ):
        if points := _points(history, key):
            style = {"label": label, "color": colour, "marker": marker}
            axes.plot(*zip(*points, strict=True), linewidth=1.6, markersize=4, **style)  # type: ignore[arg-type]
    axes.set_xlabel("optimizer step", color=MUTED)
    axes.set_ylabel("loss, nats", color=MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color=GRID, linewidth=0.8)
    clear_frame(axes)
    # above the axes: no corner is free of every curve
    axes.legend(frameon=False, labelcolor=INK, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.2)
    return figure


def loss_svg(history: Sequence[Mapping[str, Any]], *, name: str) -> str | None:
    """``loss_figure`` for the page, None if the history has no loss; ``name`` goes before every id in it."""
    known = any(line.get(key) is not None for line in history for key in ("train/loss", "val/loss"))
    return inline_svg(loss_figure(history), name=name) if known else None


def confusion_figure(confusion: Sequence[Sequence[int]], labels: Sequence[str]) -> Figure:
    """The confusion matrix; rows: the true class, columns: the predicted class, shade: share of the row."""
    n = len(labels)
    figure = Figure(figsize=(1.9 + 0.62 * n, 1.3 + 0.5 * n), layout="constrained")
    axes = figure.subplots()
    for i, row in enumerate(confusion):
        for j, cell in enumerate(row):
            share = cell / max(1, sum(row))
            # at most half opaque: the page's ink must stay readable on it in both schemes
            axes.add_patch(Rectangle((j - 0.48, i - 0.48), 0.96, 0.96, facecolor=FIRST, alpha=0.05 + 0.45 * share))
            axes.text(j, i, f"{cell:,}", ha="center", va="center", color=INK, fontsize=9)
    axes.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5))
    shown = [_short(label) for label in labels]
    # a class may be called anything: a dollar sign is no formula
    axes.set_xticks(range(n), shown, rotation=40, ha="right", rotation_mode="anchor", parse_math=False)
    axes.set_yticks(range(n), shown, parse_math=False)
    axes.set_xlabel("predicted", color=MUTED)
    axes.set_ylabel("true", color=MUTED)
    clear_frame(axes)
    return figure


def confusion_svg(confusion: Sequence[Sequence[int]], labels: Sequence[str], *, name: str) -> str | None:
    """``confusion_figure`` for the page; None for more than ``MAX_CLASSES`` classes, which nobody could read."""
    return inline_svg(confusion_figure(confusion, labels), name=name) if len(labels) <= MAX_CLASSES else None


def clear_frame(axes: Axes) -> None:
    """No frame, no ticks, labels in the page's ink."""
    axes.patch.set_visible(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0, labelcolor=INK, labelsize=9)


def _points(history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    points = [(line["step"], line[key]) for line in history if line.get(key) is not None]
    every = math.ceil(len(points) / MAX_POINTS) or 1
    return [point for i, point in enumerate(points) if i % every == 0 or i == len(points) - 1]


def _short(label: str) -> str:
    return label if len(label) <= _LONGEST_LABEL else label[: _LONGEST_LABEL - 1] + "…"


def inline_svg(figure: Figure, *, name: str) -> str:
    """A figure drawn in the marker colours as SVG for the page; ``name`` goes before every id in it."""
    file = io.StringIO()
    figure.patch.set_visible(False)
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        # the browser draws the text with its own fonts; matplotlib only measures it
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(file, format="svg")
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)  # ids of two figures must not meet
    for marker, colour in _PAGE_COLOURS.items():
        text = text.replace(marker, colour)
    width = round(figure.get_figwidth() * 96)
    return re.sub(
        r"<svg [^>]*?(viewBox=\"[^\"]+\")[^>]*>", rf'<svg \1 width="{width}" aria-hidden="true">', text, count=1
    )
