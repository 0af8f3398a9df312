"""Sketches: within one per cent at every quantile, and merging is exact."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewatch.events import LIMITS
from signals.sketch import RELATIVE_ERROR, bucket_of, quantile, value_of

LONGEST_US = int(LIMITS.duration_ms * 1000)
values_us = st.lists(st.integers(0, LONGEST_US), min_size=1, max_size=50)


def sketch(values: list[int]) -> Counter[int]:
    return Counter(bucket_of(np.array(values, dtype=np.int64)).tolist())


@given(values_us, st.floats(0, 1))
def test_every_quantile_is_within_one_per_cent(values: list[int], q: float) -> None:
    exact = sorted(values)[min(int(q * len(values)), len(values) - 1)]
    answer = quantile(sketch(values), q)
    assert answer is not None
    assert answer == pytest.approx(max(exact, 1), rel=RELATIVE_ERROR + 1e-9)


@given(values_us, values_us)
def test_merging_is_adding(left: list[int], right: list[int]) -> None:
    assert sketch(left) + sketch(right) == sketch(left + right)


@given(values_us)
def test_buckets_do_not_depend_on_the_batch(values: list[int]) -> None:
    alone = [int(bucket_of(np.array([value]))[0]) for value in values]
    assert bucket_of(np.array(values)).tolist() == alone


def test_buckets_grow_with_the_value_and_fit_their_eleven_bits() -> None:
    buckets = bucket_of(np.unique(np.geomspace(1, LONGEST_US, 5000).astype(np.int64)))
    assert np.all(np.diff(buckets) >= 0)
    assert buckets[0] == 0
    assert buckets[-1] < 1 << 11


def test_a_bucket_value_lies_in_its_bucket() -> None:
    for bucket in range(400, 1300):
        assert bucket_of(np.array([round(value_of(bucket))])).tolist() == [bucket]


def test_an_empty_sketch_has_no_quantile() -> None:
    assert quantile({}, 0.5) is None
    assert quantile({7: 0}, 0.5) is None
