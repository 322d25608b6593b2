"""Figures about a judged run, drawn as those of ``flows.figures.svg``: for the report page, and as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flows.figures.svg import FIRST, GRID, INK, MUTED, SECOND, clear_frame, inline_svg

_LIGHT = {
    "currentColor": "#1d1d1b",
    "var(--muted)": "#64635e",
    "var(--grid)": "#e6e5e0",
    "var(--series-1)": "#2a78d6",
    "var(--series-2)": "#d9571f",
}
_COLOURS = (FIRST, SECOND, MUTED)


def distribution_svg(scores: Mapping[str, Sequence[float]], *, name: str) -> str | None:
    """For each model the share of its items that score at most x, 0 to 100; None without scores.

    Steps and not bars: judges use few values, and bins would hide which.
    """
    drawn = {model: sorted(values) for model, values in scores.items() if values}
    if not drawn:
        return None
    figure, axes = _axes()
    for colour, (model, values) in zip(_COLOURS, drawn.items(), strict=False):
        n = len(values)
        shares = [(i + 1) / n for i in range(n)]
        axes.step([0, *values, 100], [0, *shares, 1], where="post", color=colour, linewidth=1.6, label=model)
    axes.set(xlim=(-2, 102), ylim=(-0.03, 1.03))
    axes.set_xlabel("score", color=MUTED)
    axes.set_ylabel("share of items up to it", color=MUTED)
    axes.legend(frameon=False, labelcolor=INK, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.2)
    return inline_svg(figure, name=name)


def difference_svg(differences: Sequence[float], *, name: str) -> str | None:
    """Candidate minus baseline for each item, the largest loss first; None without pairs."""
    if not differences:
        return None
    ordered = sorted(differences)
    figure, axes = _axes()
    colours = [FIRST if one >= 0 else SECOND for one in ordered]
    axes.bar(range(1, len(ordered) + 1), ordered, color=colours, width=1.0)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.axhline(sum(ordered) / len(ordered), color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.set_xlabel("items, by their difference", color=MUTED)
    axes.set_ylabel("points", color=MUTED)
    return inline_svg(figure, name=name)


def length_svg(points: Mapping[str, Sequence[tuple[int, float]]], *, name: str) -> str | None:
    """Score against the length of the response in characters, by model; None without scores."""
    drawn = {model: values for model, values in points.items() if values}
    if not drawn:
        return None
    figure, axes = _axes()
    for colour, (model, values) in zip(_COLOURS, drawn.items(), strict=False):
        lengths, scores = zip(*values, strict=True)
        axes.plot(lengths, scores, "o", color=colour, markersize=4, alpha=0.6, markeredgewidth=0, label=model)
    axes.set_ylim(-4, 104)
    axes.set_xlabel("characters of the response", color=MUTED)
    axes.set_ylabel("score", color=MUTED)
    axes.legend(frameon=False, labelcolor=INK, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.2)
    return inline_svg(figure, name=name)


def controls_svg(values: Mapping[str, Sequence[float]], *, name: str) -> str | None:
    """Each control's score, or its difference from the unchanged response, by kind; None without any."""
    drawn = {kind: numbers for kind, numbers in values.items() if numbers}
    if not drawn:
        return None
    figure, axes = _axes()
    for row, numbers in enumerate(drawn.values()):
        # equal values would hide each other: spread around the row, the same way each time
        spread = [row + 0.5 * ((i + 0.5) / len(numbers) - 0.5) for i in range(len(numbers))]
        axes.plot(numbers, spread, "o", color=FIRST, markersize=4, alpha=0.6, markeredgewidth=0)
        mean = sum(numbers) / len(numbers)
        axes.plot([mean, mean], [row - 0.36, row + 0.36], color=SECOND, linewidth=2)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set_yticks(range(len(drawn)), list(drawn))
    axes.set_ylim(len(drawn) - 0.5, -0.5)
    axes.set_xlabel("score, or points gained over the unchanged response", color=MUTED)
    return inline_svg(figure, name=name)


def standalone(svg: str) -> str:
    """A figure of the report page as a file of its own, in the page's light colours on white."""
    for variable, colour in _LIGHT.items():
        svg = svg.replace(variable, colour)
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return svg.replace("<svg ", f'<svg {names} style="background:#fff;font-family:sans-serif" ', 1)


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, 2.9), layout="constrained")
    axes = figure.subplots()
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    clear_frame(axes)
    return figure, axes
