"""Mergeable latency sketches: log-spaced buckets with integer counts.

A value lies in bucket ``ceil(log_gamma(value))`` with ``gamma = (1 + a) / (1 - a)``; reporting the
bucket's middle ``2 * gamma**bucket / (gamma + 1)`` is wrong by at most ``a`` of the value, at every
quantile (DDSketch: Masson, Rim, Lee, VLDB 2019). Counts are integers, so merging is adding: exact,
whatever the order. KLL or t-digests are smaller, but randomised or order-dependent, and a chunk that
is computed twice must give the same row twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["GAMMA", "RELATIVE_ERROR", "bucket_of", "quantile", "value_of"]

RELATIVE_ERROR: Final = 0.01
GAMMA: Final = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GAMMA: Final = float(np.log(GAMMA))


def bucket_of(values_us: NDArray[np.int64]) -> NDArray[np.int64]:
    """Buckets of values, in microseconds; 0 and 1 us share bucket 0.

    >>> bucket_of(np.array([0, 1, 1000, 60_000_000])).tolist()
    [0, 0, 346, 896]
    """
    clipped = np.maximum(values_us, 1).astype(np.float64)
    return np.ceil(np.log(clipped) / _LOG_GAMMA).astype(np.int64)


def value_of(bucket: int) -> float:
    """The value, in microseconds, that stands for all values of a bucket.

    >>> round(value_of(346))
    1003
    """
    return float(2 * GAMMA**bucket / (GAMMA + 1))


def quantile(counts: Mapping[int, int], q: float) -> float | None:
    """The ``q`` quantile, in microseconds, of a sketch given as bucket -> count; None when it is empty.

    >>> quantile({0: 1, 346: 98, 896: 1}, 0.5) == value_of(346)
    True
    """
    total = sum(counts.values())
    if total == 0:
        return None
    # The same rank as ClickHouse's quantileExact: the element at index floor(q * n), from 0.
    rank = min(int(q * total), total - 1)
    seen = 0
    for bucket in sorted(counts):
        seen += counts[bucket]
        if seen > rank:
            return value_of(bucket)
    raise AssertionError("unreachable: the counts add up to the total")
