"""Sequence numbers as intervals, against a set of numbers."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from signals.sequence import SequenceTracker

Seen = list[tuple[str, int]]
LARGEST = (1 << 47) - 1


def see(tracker: SequenceTracker, events: Seen) -> list[bool]:
    names = list(dict.fromkeys(name for name, _ in events))
    codes = np.array([names.index(name) for name, _ in events], dtype=np.int64)
    numbers = np.array([seq for _, seq in events], dtype=np.int64)
    return tracker.see(names, codes, numbers).tolist()  # type: ignore[no-any-return]


def expand(tracker: SequenceTracker) -> set[tuple[str, int]]:
    ranges = tracker.ranges()
    spans = zip(ranges.emitter_id, ranges.first, ranges.last, strict=True)
    return {(name, seq) for name, first, last in spans for seq in range(first, last + 1)}


events = st.lists(
    st.tuples(st.sampled_from(["", "a", "b", "c"]), st.integers(-1, 12)), min_size=1, max_size=40
)


@given(events, st.lists(st.integers(1, 40), max_size=4))
@example([("a", 3), ("a", 1), ("a", 2), ("a", 3)], [1, 2, 3])
def test_any_batches_say_what_a_set_says(stream: Seen, cuts: list[int]) -> None:
    tracker = SequenceTracker(2)
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    answers = [
        again for start, stop in itertools.pairwise(edges) for again in see(tracker, stream[start:stop])
    ]
    followed = list(dict.fromkeys(name for name, _ in stream if name))[:2]
    seen: set[tuple[str, int]] = set()
    expected, repeats, untracked = [], dict.fromkeys(followed, 0), 0
    for name, seq in stream:
        again = (name, seq) in seen
        expected.append(again)
        if seq < 0:
            continue
        if name not in followed:
            untracked += 1
            continue
        repeats[name] += again
        seen.add((name, seq))
    assert answers == expected
    assert expand(tracker) == seen
    assert tracker.untracked == untracked
    assert tracker.ranges().duplicates == {name: n for name, n in repeats.items() if n}


def test_numbers_that_follow_each_other_are_one_interval() -> None:
    tracker = SequenceTracker(8)
    see(tracker, [("a", seq) for seq in (0, 1, 2, 7, 8, 4, 3)])
    ranges = tracker.ranges()
    assert (ranges.emitter_id, ranges.first, ranges.last) == (["a", "a"], [0, 7], [4, 8])


def test_the_largest_number_of_one_emitter_does_not_touch_the_next_ones_first() -> None:
    tracker = SequenceTracker(8)
    see(tracker, [("a", LARGEST - 1), ("b", 0)])
    ranges = tracker.ranges()
    assert (ranges.emitter_id, ranges.first, ranges.last) == (["a", "b"], [LARGEST - 1, 0], [LARGEST - 1, 0])
