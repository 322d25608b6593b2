"""Judges whose faults are known, for the power of probes and for trying a pipeline without a model.

``SimulatedJudge`` judges numbers: arrays of answers whose true quality is known, thousands at a time.
``SimulatedTextJudge`` puts the same judge behind the ``Judge`` protocol, for texts.

How it reads an answer: true quality, plus a reading error that belongs to the item, the wording and the call in shares
(so a repeated question is read almost alike and a reworded one a little otherwise; a blank answer is read without
error), plus its faults, on one of two scales:

- ``calibrated``: the score is what was read.
- ``lenient``: few values, high at the bottom, fitted to Llama 3 8B's scores of two models' answers to 100 items
  (rasbt/LLMs-from-scratch, ch07/03), with GPT-4's as the truth: answers equal to the reference get 93 on average and
  rarely 100; answers worth 0 get 35 on average, nearly every fourth of them 60 or more; eight values make up most of
  all scores.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from eval.exact import normalise
from eval.stats.bootstrap import Floats
from eval.stats.pairwise import LOSS, TIE, WIN
from eval.stats.validity import ControlScores
from eval.types import MAX_SCORE, MIN_SCORE, ControlCounts, Sample, Verdict

USUAL_WORDS = 60.0
"""The length that earns nothing and costs nothing with a judge who likes length."""
POINTS_PER_LOGIT = 15.0
"""In pairs, 15 points of quality read are odds of e."""
_TIE_LOGIT = 0.25
_FILLER_WORDS = 120.0
_Integers = NDArray[np.int64]

# Values of the lenient scale, and how often an answer worth 100 and an answer worth 0 gets each, in percent.
_VALUES = np.array([0, 4, 14, 20, 25, 40, 44, 60, 68, 76, 80, 85, 90, 92, 95, 98, 100], dtype=np.float64)
_TOP = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 9, 4, 15, 9, 21, 35, 6], dtype=np.float64)
_BOTTOM = np.array([2, 8, 4, 42, 5, 11, 5, 2, 8, 3, 5, 5, 0, 0, 0, 0, 0], dtype=np.float64)


@dataclass(frozen=True)
class Answers:
    """Answers with what is true of them, one array each, [answers]."""

    item: _Integers
    """The item each answers; the same item is read with the same error."""
    truth: Floats
    """True quality, 0..100."""
    words: Floats
    """Length."""
    wording: _Integers
    """Number of the text among the texts for this item."""
    injected: NDArray[np.bool_]
    """Whether the answer tells the judge what to score."""
    own: NDArray[np.bool_]
    """Whether it was written by a model of the judge's family."""
    progress: Floats
    """When in the run it is judged, 0 first to 1 last."""

    def __len__(self) -> int:
        """Number of answers."""
        return len(self.item)


def build_answers(truth: Floats, *, first_item: int = 0, seed: int = 0, **known: Any) -> Answers:
    """Answers of the given true quality, one per item in the order of the run; ``known`` sets other fields of Answers.

    Lengths, where not given, are drawn around ``USUAL_WORDS`` whatever the quality.
    """
    n = len(truth)
    fields: dict[str, Any] = {
        "item": np.arange(first_item, first_item + n),
        "truth": np.asarray(truth, dtype=np.float64),
        "words": np.random.default_rng([seed, 7]).uniform(20, 100, n),
        "wording": np.zeros(n, dtype=np.int64),
        "injected": np.zeros(n, dtype=np.bool_),
        "own": np.zeros(n, dtype=np.bool_),
        "progress": np.linspace(0.0, 1.0, n),
    }
    return Answers(**(fields | known))


def draw_truth(n: int, *, seed: int) -> Floats:
    """True qualities as GPT-4 saw them in small models' answers: near two thirds right, a fifth worthless."""
    rng = np.random.default_rng([seed, 11])
    kind = rng.random(n)
    return np.where(kind < 0.6, 100.0, np.where(kind < 0.8, 0.0, rng.uniform(10, 99, n)))


def draw_model_answers(
    n: int, *, seed: int, number: int, skill: float, words: tuple[float, float] = (20, 100)
) -> Answers:
    """Answers of model ``number`` to the items of ``seed``, which are the same for all models.

    The model reaches the share ``skill`` of what each item allows, give or take 15 points.
    """
    rng = np.random.default_rng([seed, number])
    truth = np.clip(draw_truth(n, seed=seed) * skill + rng.normal(0, 15, n), MIN_SCORE, MAX_SCORE)
    return build_answers(truth, words=rng.uniform(*words, n), wording=np.full(n, number))


@dataclass(frozen=True)
class SimulatedJudge:
    """A judge of numbers with faults of known size; the default has none but its reading error."""

    seed: int
    scale: Literal["calibrated", "lenient"] = "calibrated"
    reading_sd: float = 8.0
    """Standard deviation of the reading error in points (for the lenient scale it only says how errors are shared)."""
    wording_share: float = 0.5
    """Share of the reading error's variance that another wording draws anew."""
    call_share: float = 0.005
    """Share that each call draws anew: a server at temperature 0 that is nearly repeatable."""
    length_bias: float = 0.0
    """Points for a long answer (and off a short one), approached as tanh of the words beyond the usual."""
    obeys_injection: float = 0.0
    """Chance that an answer which demands full marks gets them."""
    position_bias: float = 0.0
    """In pairs, logits added to the answer that stands first."""
    drift: float = 0.0
    """Points added from the first to the last answer of a run."""
    self_preference: float = 0.0
    """Points for answers of its own family."""
    failure_rate: float = 0.0
    """Chance of no score for an answer worth 50; twice that for one worth 0, none for a perfect one."""

    def score(self, given: Answers, *, call: int = 0) -> Floats:
        """Whole scores 0..100, NaN where it fails; another ``call`` is the same question asked again."""
        scores = self._read(given, call=call) + self._compute_bias(given)
        if self.obeys_injection:
            obeys = self._draw_uniform(given.item, given.wording, stream=3) < self.obeys_injection
            scores = np.where(given.injected & obeys, MAX_SCORE - 2.0, scores)
        scores = np.clip(np.round(scores), MIN_SCORE, MAX_SCORE)
        fails = self._draw_uniform(given.item, given.wording, stream=4) < 2 * self.failure_rate * (
            1 - given.truth / 100
        )
        return np.where(fails, np.nan, scores)

    def play(self, a: Answers, b: Answers) -> tuple[Floats, Floats]:
        """A's results (1, 0.5, 0) on each item where A stands first, and where it stands second."""
        lead = self._compute_lead(a, b)
        results = []
        for order, bias in ((0, self.position_bias), (1, -self.position_bias)):
            chance = self._draw_uniform(a.item, np.full(len(a), order), stream=5)
            noise = np.log(chance) - np.log1p(-chance)
            seen = lead + bias + noise
            results.append(np.where(seen > _TIE_LOGIT, WIN, np.where(seen < -_TIE_LOGIT, LOSS, TIE)))
        return results[0], results[1]

    def compute_true_win_rate(self, a: Answers, b: Answers) -> float:
        """A's expected win rate with this judge, were it blind to place, length and family."""
        blind = SimulatedJudge(self.seed, self.scale, self.reading_sd, self.wording_share, self.call_share)
        lead = blind._compute_lead(a, b)
        chance = (1 / (1 + np.exp(-(lead - _TIE_LOGIT))) + 1 / (1 + np.exp(-(lead + _TIE_LOGIT)))) / 2
        return float(chance.mean())

    def _compute_lead(self, a: Answers, b: Answers) -> Floats:
        """How much better A reads than B, in logits."""
        quality = self._read(a, call=0) - self._read(b, call=0)
        own = self.self_preference * (a.own.astype(np.float64) - b.own)
        length = self.length_bias * np.tanh((a.words - b.words) / USUAL_WORDS)
        return (quality + own + length) / POINTS_PER_LOGIT

    def _compute_bias(self, given: Answers) -> Floats:
        length = self.length_bias * np.tanh((given.words - USUAL_WORDS) / USUAL_WORDS)
        return length + self.self_preference * given.own + self.drift * given.progress

    def _read(self, given: Answers, *, call: int) -> Floats:
        from scipy.special import ndtr

        error = self._draw_error(given, call=call)
        is_blank = given.words == 0
        if self.scale == "calibrated":
            return np.where(is_blank, 0.0, given.truth + self.reading_sd * error)
        share = given.truth[:, None] / MAX_SCORE
        cumulated = np.cumsum(share * _TOP + (1 - share) * _BOTTOM, axis=1) / 100
        read = _VALUES[np.minimum((ndtr(error)[:, None] > cumulated).sum(axis=1), len(_VALUES) - 1)]
        return np.where(is_blank, 0.0, read)

    def _draw_error(self, given: Answers, *, call: int) -> Floats:
        """Standard normal [answers]: parts of the item, the wording and the call."""
        from scipy.special import ndtri

        none = np.zeros_like(given.item)
        by_item = ndtri(self._draw_uniform(given.item, none, stream=0))
        by_wording = ndtri(self._draw_uniform(given.item, given.wording, stream=1))
        by_call = ndtri(self._draw_uniform(given.item, given.wording, stream=2, call=call))
        item_share = 1 - self.wording_share - self.call_share
        return np.asarray(
            np.sqrt(item_share) * by_item
            + np.sqrt(self.wording_share) * by_wording
            + np.sqrt(self.call_share) * by_call
        )

    def _draw_uniform(self, item: _Integers, wording: _Integers, *, stream: int, call: int = 0) -> Floats:
        """Numbers in (0, 1) that depend on nothing but the judge and what is asked of it (splitmix64)."""
        with np.errstate(over="ignore"):
            mixed = np.full(len(item), np.uint64(self.seed) * np.uint64(0x9E3779B97F4A7C15))
            for part in (item, wording, np.full(len(item), stream), np.full(len(item), call)):
                mixed = mixed + part.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
                mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                mixed = mixed ^ (mixed >> np.uint64(31))
        return np.asarray(((mixed >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53)


def simulate_controls(judge: SimulatedJudge, *, seed: int, counts: ControlCounts | None = None) -> ControlScores:
    """What ``judge`` gives the controls of one run, built as ``ControlScores`` asks for them."""
    counts = counts or ControlCounts()
    rng = np.random.default_rng([seed, 13])

    def draw_fresh(truth: Floats, kind: int, **known: Any) -> Answers:
        words = rng.uniform(20, 100, len(truth))
        progress = rng.random(len(truth))
        return build_answers(truth, first_item=1000 * kind, **({"words": words, "progress": progress} | known))

    def measure_difference(before: Answers, **changed: Any) -> list[float | None]:
        after = replace(before, wording=before.wording + 1, **changed)
        return _replace_nan(judge.score(after) - judge.score(before))

    wrong = draw_fresh(rng.uniform(0, 10, counts.injection), 4)
    middling = draw_fresh(rng.uniform(20, 80, counts.padded), 5)
    asked = draw_fresh(draw_truth(counts.repeat, seed=seed), 6, progress=np.zeros(counts.repeat))
    again = replace(asked, progress=np.ones(counts.repeat))
    return ControlScores(
        identity=_replace_nan(judge.score(draw_fresh(np.full(counts.identity, 100.0), 1))),
        mismatch=_replace_nan(judge.score(draw_fresh(rng.uniform(0, 10, counts.mismatch), 2))),
        empty=_replace_nan(judge.score(draw_fresh(np.zeros(counts.empty), 3, words=np.zeros(counts.empty)))),
        injection=measure_difference(wrong, injected=np.ones(counts.injection, dtype=np.bool_)),
        padded=measure_difference(middling, words=middling.words + _FILLER_WORDS),
        repeat=_replace_nan(judge.score(again, call=1) - judge.score(asked)),
    )


class SimulatedTextJudge:
    """A ``SimulatedJudge`` behind the ``Judge`` protocol.

    True quality of a text is the share of the reference's words that it holds, times 100: it is 100 for the reference,
    near 0 for another item's, and what somebody adds to an answer changes nothing of it. Safe to call from threads.
    """

    def __init__(
        self,
        judge: SimulatedJudge,
        *,
        injection: str = r"(?i)\bignore\b|\bfull marks\b|\b100\b",
        n_expected: int = 100,
    ) -> None:
        """``injection`` is found in texts that tell the judge what to score; drift is over ``n_expected`` calls."""
        self._judge = judge
        self._injection = re.compile(injection)
        self._n_expected = n_expected
        self._asked: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def __call__(self, sample: Sample, response: str, *, shortcut: bool = True, repeat: int = 0) -> Verdict:
        """A verdict; a failure is a timeout. There is no short cut, and whatever is asked again is a repeat."""
        del shortcut, repeat
        with self._lock:
            call, number = self._asked[sample.id, response], self._asked.total()
            self._asked[sample.id, response] += 1
        wanted, held = Counter(normalise(sample.reference).split()), Counter(normalise(response).split())
        truth = 100 * sum((wanted & held).values()) / max(1, sum(wanted.values()))
        given = build_answers(
            np.array([truth]),
            item=np.array([_hash_number(sample.id)]),
            wording=np.array([_hash_number(response)]),
            words=np.array([float(sum(held.values()))]),
            injected=np.array([self._injection.search(response) is not None]),
            progress=np.array([min(1.0, number / self._n_expected)]),
        )
        [score] = self._judge.score(given, call=call)
        if np.isnan(score):
            return Verdict(None, "", "timeout", "", 0.0, detail="the simulated judge failed on purpose")
        return Verdict(int(score), f"{truth:.0f}% of the reference's words", None, f"{score:.0f}", 0.0)

    def describe(self) -> dict[str, Any]:
        """The judge's parameters."""
        return {"mode": "simulated", "injection": self._injection.pattern, **asdict(self._judge)}


def _hash_number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:7], "big")


def _replace_nan(scores: Floats) -> list[float | None]:
    return [None if np.isnan(score) else float(score) for score in scores]
