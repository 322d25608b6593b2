"""Is new data unlike what a model knows? Its loss on it, the tokens in it, the lengths of its texts.

- Loss: the model's bits per byte on new texts against those on its own held-out texts, with a permutation test.
- Tokens: the Jensen-Shannon distance of the token frequencies, in 0..1 (the root of the divergence in bits: Lin 1991,
  https://doi.org/10.1109/18.61115; Endres and Schindelin 2003, https://doi.org/10.1109/TIT.2003.813506).
- Lengths: the population stability index over tenths of the known lengths; 0.2 is its customary bound (Siddiqi 2006,
  "Credit Risk Scorecards"; Yurdakul and Naranjo 2020, https://doi.org/10.21314/JRMV.2020.227, on how it grows with few
  samples alone).

Both histograms' figures are above 0 by chance, the more so the fewer texts there are. So each must also lie above what
random groups of the same texts reach: the texts, not the tokens, are exchanged, since tokens of one text go together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from eval.stats import compare_groups
from flows.retraining.policy import RetrainPolicy

Floats = NDArray[np.float64]
N_SHUFFLES = 500
_TOKEN_BINS = 512
_LENGTH_BINS = 10
_SMOOTHING = 0.5
"""Added to each count, so that an empty bin has a logarithm."""


@dataclass(frozen=True)
class Sample:
    """Some texts, as a model sees them."""

    bits_per_byte: Sequence[float]
    """Of each text."""
    tokens: Sequence[Sequence[int]]
    """Token ids of each text."""


@dataclass(frozen=True)
class Drift:
    """How far new texts are from known ones."""

    loss_increase: float
    """Mean bits per byte of the new texts over that of the known ones, less 1."""
    loss_p: float
    """Permutation test of no difference."""
    token_distance: float
    """Jensen-Shannon distance, 0..1."""
    token_p: float
    """Share of random groups at least so far apart."""
    psi: float
    """Population stability index of the lengths in tokens."""
    psi_p: float
    """Share of random groups with at least as large an index."""
    n_new: int
    n_known: int
    reasons: tuple[str, ...] = ()
    """What counts as drift by the policy, in words; empty if nothing does."""


def drift(new: Sample, known: Sample, policy: RetrainPolicy, *, seed: int = 1) -> Drift:
    """Compare new texts with known ones.

    Raises:
        EvalDataError: there are no texts on one side.
    """
    loss = compare_groups(new.bits_per_byte, known.bits_per_byte, seed=seed)
    base = float(np.mean(known.bits_per_byte))
    every = [*new.tokens, *known.tokens]
    tokens, lengths = _token_counts(every), _length_bins(every, known.tokens)
    distance, token_p = _permutation_test(tokens, len(new.tokens), js_distance, seed)
    index, psi_p = _permutation_test(lengths, len(new.tokens), stability_index, seed)
    sizes = len(new.tokens), len(known.tokens)
    found = Drift(loss.difference / base, loss.p_value, distance, token_p, index, psi_p, *sizes)
    return replace(found, reasons=_reasons(found, policy))


def _reasons(found: Drift, policy: RetrainPolicy) -> tuple[str, ...]:
    level, reasons = policy.level, []
    if found.loss_increase > policy.max_loss_increase and found.loss_p <= level:
        reasons.append(f"bits per byte +{found.loss_increase:.1%} (p {found.loss_p:.3f})")
    if found.token_distance > policy.max_token_distance and found.token_p <= level:
        reasons.append(f"token frequencies {found.token_distance:.2f} apart (p {found.token_p:.3f})")
    if found.psi > policy.max_psi and found.psi_p <= level:
        reasons.append(f"stability index of the lengths {found.psi:.2f} (p {found.psi_p:.3f})")
    return tuple(reasons)


def js_distance(first: Floats, second: Floats) -> Floats:
    """Jensen-Shannon distance, base 2, of counts [..., bins]: 0 for the same frequencies, 1 for none in common."""
    p = first / first.sum(axis=-1, keepdims=True)
    q = second / second.sum(axis=-1, keepdims=True)
    middle = (p + q) / 2
    divergence = (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2
    return np.asarray(np.sqrt(np.clip(divergence, 0.0, 1.0)))


def _relative_entropy(p: Floats, q: Floats) -> Floats:
    safe = np.where(p > 0, p, 1.0)
    return np.asarray((p * np.log2(safe / np.where(q > 0, q, 1.0))).sum(axis=-1))


def stability_index(actual: Floats, expected: Floats) -> Floats:
    """Population stability index of counts [..., bins]: the sum of (a - e) ln(a / e) over the bins' shares."""
    a = (actual + _SMOOTHING) / (actual + _SMOOTHING).sum(axis=-1, keepdims=True)
    e = (expected + _SMOOTHING) / (expected + _SMOOTHING).sum(axis=-1, keepdims=True)
    return np.asarray(((a - e) * np.log(a / e)).sum(axis=-1))


def _permutation_test(
    counts: Floats, n_new: int, measure: Callable[[Floats, Floats], Floats], seed: int
) -> tuple[float, float]:
    """The figure of counts [texts, bins] whose first ``n_new`` texts are new, and the share of random groups with one
    at least as large."""
    whole = counts.sum(axis=0)
    observed = float(measure(counts[:n_new].sum(axis=0), counts[n_new:].sum(axis=0)))
    rng = np.random.default_rng([seed, 3])
    member = np.zeros((N_SHUFFLES, len(counts)))
    for row in member:
        row[rng.choice(len(counts), size=n_new, replace=False)] = 1.0
    groups = member @ counts
    by_chance = measure(groups, whole - groups)
    return observed, float((1 + (by_chance >= observed - 1e-12).sum()) / (1 + N_SHUFFLES))


def _token_counts(texts: Sequence[Sequence[int]]) -> Floats:
    """[texts, bins]: the commonest tokens one by one, the rest together."""
    ids = np.concatenate([np.asarray(text, dtype=np.int64) for text in texts])
    kinds, inverse, counts = np.unique(ids, return_inverse=True, return_counts=True)
    rank = np.empty(len(kinds), dtype=np.int64)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(kinds))
    bins = np.minimum(rank[inverse], _TOKEN_BINS)
    rows = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    table = np.zeros((len(texts), _TOKEN_BINS + 1))
    np.add.at(table, (rows, bins), 1.0)
    return table


def _length_bins(texts: Sequence[Sequence[int]], known: Sequence[Sequence[int]]) -> Floats:
    """[texts, bins]: 1 in the tenth of the known lengths that a text's length falls in."""
    edges = np.unique(np.quantile([len(text) for text in known], np.linspace(0, 1, _LENGTH_BINS + 1)[1:-1]))
    table = np.zeros((len(texts), len(edges) + 1))
    table[np.arange(len(texts)), np.searchsorted(edges, [len(text) for text in texts])] = 1.0
    return table
