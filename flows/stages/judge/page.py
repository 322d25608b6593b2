"""What the report page shows of the judge: may it be believed, what did it say, of which items, by which instrument."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from markupsafe import Markup

from flows.stages.judge.drawings import controls_svg, difference_svg, distribution_svg, length_svg
from flows.stages.judge.sitting import FOLDER, MAIN, count_unscored, differences
from gptcore.files import read_json_lines

N_ITEMS: Final = 5
"""Best and worst items shown in full, of each."""
_NAMES: Final = {"instruct": "fine-tuned", "base": "base", "lora": "LoRA"}
_PAIRED: Final = ("injection", "padded", "repeat")


class Figure(NamedTuple):
    """A drawing about the judge."""

    name: str
    """Of its file."""
    title: str
    note: str
    """What is drawn, in a few words."""
    svg: str
    """As ``flows.figures.svg`` draws."""


def judge_part(folder: Path, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """The judge's part of the page; None if nobody was judged.

    Args:
        folder: output of the evaluation.
        facts: what it hands on about the judge.

    Raises:
        DataError: a file that the stage left cannot be read.
    """
    if not (folder / FOLDER / "items.jsonl").is_file():
        return None
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in read_json_lines(folder / FOLDER / "items.jsonl"):
        rows.setdefault(row["model"], []).append(row)
    controls = read_json_lines(folder / FOLDER / "controls.jsonl")
    figures = judge_figures(rows, controls, baseline=facts["baseline"])
    return {
        "facts": facts,
        "models": [
            {"name": _NAMES[name], "unscored_by": count_unscored(one), **one} for name, one in facts["models"].items()
        ],
        "comparisons": [
            {"candidate": _NAMES[name], "baseline": _NAMES[facts["baseline"]], **one}
            for name, one in facts["comparisons"].items()
        ],
        "pairs": _pairs(facts.get("pairs")),
        "panel": _panel(facts.get("panel")),
        "figures": [{**one._asdict(), "svg": Markup(one.svg)} for one in figures],
        "groups": _items(rows),
        "instrument": _instrument(facts["provenance"]),
    }


def _pairs(facts: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The tournament, its models by the names of the page."""
    if facts is None:
        return None
    matches = [
        {**one, "candidate": _NAMES[one["candidate"]], "baseline": _NAMES[one["baseline"]]} for one in facts["matches"]
    ]
    found = (facts["strengths"] or {}).get("strengths", {})
    return {**facts, "matches": matches, "strengths": [(_NAMES[name], one) for name, one in found.items()]}


def _panel(facts: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Each judge of a panel with what it says of each model, and how far they agree."""
    if facts is None:
        return None
    judges = [
        {
            "name": tag,
            "valid": one["models"][MAIN]["valid"],
            "means": [model["mean"] for model in one["models"].values()],
            "verdicts": [f"{_NAMES[name]} {verdict}" for name, verdict in one["verdicts"].items()],
        }
        for tag, one in facts["judges"].items()
    ]
    agreement = [{"name": _NAMES[name], **one} for name, one in facts["agreement"].items()]
    return {"judges": judges, "agreement": agreement}


def judge_figures(
    rows: Mapping[str, Sequence[Mapping[str, Any]]], controls: Sequence[Mapping[str, Any]], *, baseline: str | None
) -> list[Figure]:
    """Scores, scores against length, controls, and each model's differences from the baseline; those there are.

    Args:
        rows: by model, one per item, as ``eval.run.judge_responses`` made them.
        controls: the rows of the controls.
        baseline: the model that the others are compared with.
    """
    scored = {_NAMES[name]: [row for row in each if row["score"] is not None] for name, each in rows.items()}
    scores = {name: [float(row["score"]) for row in each] for name, each in scored.items()}
    lengths = {name: [(len(row["response"]), float(row["score"])) for row in each] for name, each in scored.items()}
    found = [
        ("scores", "Scores", "share of items at or below", distribution_svg(scores, name="judge-scores")),
        ("length", "Score against length", "each item", length_svg(lengths, name="judge-length")),
        ("controls", "Controls", "the bar is the mean", controls_svg(_controls(controls), name="judge-controls")),
    ]
    for name in rows:
        if baseline is None or name == baseline:
            continue
        svg = difference_svg(differences(rows[baseline], rows[name]), name=f"judge-paired-{name}")
        title = f"{_NAMES[name]} minus {_NAMES[baseline]}"
        found.append((f"paired_{name}", title[0].upper() + title[1:], "each item; dashed: the mean", svg))
    return [Figure(name, title, note, svg) for name, title, note, svg in found if svg]


def _controls(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for row in rows:
        score, base = row["score"], row["base_score"]
        if score is None or (row["kind"] in _PAIRED and base is None):
            continue
        found.setdefault(row["kind"], []).append(float(score - base if row["kind"] in _PAIRED else score))
    return found


def _items(rows: dict[str, list[dict[str, Any]]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The best, the worst and the unscored, each beside the base model's response to the same item."""
    others = {row["id"]: row for row in rows.get("base", ())}
    every = [{**row, "other": others.get(row["id"])} for row in rows[MAIN]]
    # of equal scores those first that the judge read itself: a copy of the reference teaches nothing
    scored = [row for row in every if row["score"] is not None]
    best = sorted(scored, key=lambda row: (-row["score"], row["source"] != "judge"))[:N_ITEMS]
    seen = {row["id"] for row in best}
    worst = [row for row in sorted(scored, key=lambda row: row["score"]) if row["id"] not in seen][:N_ITEMS]
    unscored = [row for row in every if row["score"] is None][:N_ITEMS]
    groups = [("Best by the judge", best), ("Worst by the judge", worst), ("Without a score", unscored)]
    return [(title, group) for title, group in groups if group]


def _instrument(provenance: dict[str, Any]) -> list[tuple[str, str]]:
    judge = provenance["judge"]
    client = judge["client"]
    options = ", ".join(f"{name} {value}" for name, value in client.get("options", {}).items())
    named = (
        ("model", client.get("model")),
        ("digest", client.get("model_digest")),
        ("quantization", client.get("quantization")),
        ("server", client.get("server_version")),
        ("client", client.get("client_version")),
        ("options", options),
        ("prompt", judge.get("prompt_digest")),
        ("schema", judge.get("schema_digest")),
        ("items", provenance.get("items_digest")),
        ("instrument", provenance.get("comparable_group")),
    )
    return [(name, str(value)) for name, value in named if value]
