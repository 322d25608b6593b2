"""Drift: found where it is, not found where it is not, and the figures against their formulas."""

from __future__ import annotations

import numpy as np
import pytest

from eval.errors import EvalDataError
from flows.retraining.drift import Sample, drift, js_distance, stability_index
from flows.retraining.policy import RetrainPolicy

POLICY = RetrainPolicy()


def sample(seed: int, *, n: int = 80, bits: float = 2.0, length: float = 60.0, first_token: int = 0) -> Sample:
    rng = np.random.default_rng(seed)
    lengths = np.maximum(1, rng.poisson(length, size=n))
    # of some words there are many, of most there are few
    tokens = [(first_token + rng.geometric(0.05, size=size)).tolist() for size in lengths]
    return Sample(list(bits + 0.3 * rng.standard_normal(n)), tokens)


def test_texts_of_the_same_kind_do_not_drift() -> None:
    found = [drift(sample(seed), sample(100 + seed), POLICY) for seed in range(10)]
    assert [one.reasons for one in found] == [()] * 10


def test_a_few_texts_do_not_look_like_drift_because_they_are_few() -> None:
    found = [drift(sample(seed, n=6), sample(100 + seed), POLICY) for seed in range(10)]
    assert max(one.psi for one in found) > POLICY.max_psi  # the customary bound alone would have called
    assert [one.reasons for one in found] == [()] * 10


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        (sample(1, bits=2.6), "bits per byte +"),
        (sample(1, first_token=15), "token frequencies"),
        (sample(1, length=90.0), "stability index of the lengths"),
    ],
)
def test_each_kind_of_drift_is_found_and_named(new: Sample, reason: str) -> None:
    found = drift(new, sample(2), POLICY)
    assert len(found.reasons) == 1
    assert found.reasons[0].startswith(reason)


def test_a_lower_loss_is_no_drift() -> None:
    assert drift(sample(1, bits=1.0), sample(2), POLICY).reasons == ()


def test_the_figures_are_those_of_the_formulas() -> None:
    a, b = np.array([1.0, 3.0, 0.0]), np.array([0.0, 1.0, 1.0])
    from scipy.spatial.distance import jensenshannon

    assert float(js_distance(a, b)) == pytest.approx(float(jensenshannon(a, b, base=2)))
    assert float(js_distance(a, a)) == 0.0
    assert float(js_distance(np.array([1.0, 0.0]), np.array([0.0, 1.0]))) == pytest.approx(1.0)
    p, q = np.array([40.0, 60.0]), np.array([50.0, 50.0])
    shares = (np.array([40.5, 60.5]) / 101, np.array([0.5, 0.5]))
    expected = sum((x - y) * np.log(x / y) for x, y in zip(*shares, strict=True))
    assert float(stability_index(p, q)) == pytest.approx(expected)


def test_no_text_on_one_side_is_refused() -> None:
    with pytest.raises(EvalDataError, match="expected at least one item in each group, got 0 and 80"):
        drift(Sample([], []), sample(1), POLICY)
