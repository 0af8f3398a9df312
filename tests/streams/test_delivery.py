"""After every history the views hold what the input says, as if every event had come once.

Steps are weighted towards what mattered to a model of the design: crashes in the middle of a flush,
answers that are lost, zombies. ``python -m tests.streams.mutation`` leaves each rule of delivery out in
turn and shows that these histories notice (``docs/delivery.md``).
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sinks.clickhouse import Sink
from tests.streams.delivery_model import (
    CHUNK_RECORDS,
    GRACE_MS,
    MAX_AGE_MS,
    SERIES_LIMIT,
    AddPartition,
    ChunkSize,
    Close,
    Commit,
    Crash,
    Deploy,
    Die,
    Expel,
    Flush,
    LateClose,
    Line,
    Pass,
    Produce,
    Read,
    Rebalance,
    Recreate,
    Retention,
    Rewind,
    Step,
    World,
    Zombie,
)
from tests.streams.delivery_oracle import Mismatch, compare

RULES = {"chunk_records": CHUNK_RECORDS, "grace_ms": GRACE_MS, "max_age_ms": MAX_AGE_MS}

small = st.integers(0, 11)
line = st.builds(
    Line,
    kind=st.sampled_from(["call", "call", "call", "call", "part", "part", "again", "feedback", "bad"]),
    gateway=small,
    model=small,
    lateness=small,
    emitter=small,
    earlier=small,
)
records = st.lists(st.lists(line, min_size=1, max_size=3).map(tuple), min_size=1, max_size=5).map(tuple)
worker = st.sampled_from([0, 0, 1])
faults = st.lists(st.sampled_from(["ok", "refused", "lost"]), max_size=3).map(tuple)
partly = st.one_of(st.none(), st.integers(1, 9))

WEIGHTED: list[tuple[int, st.SearchStrategy[Any]]] = [
    (10, st.builds(Produce, partition=st.sampled_from([0, 0, 0, 1, 2, 3]), records=records)),
    (4, st.builds(Pass, ms=st.sampled_from([5_000, 61_000, 130_000, 130_000]))),
    (6, st.builds(Read, worker=worker, records=st.sampled_from([1, 3, 9, 9]))),
    (8, st.builds(Flush, worker=worker, steps=partly, faults=faults, committed=st.booleans())),
    (3, st.builds(Commit, worker=worker)),
    (7, st.builds(Close, hear=st.sampled_from([1, 100, 100]), fault=st.sampled_from(
        ["", "", "", "refused", "lost", "torn", "unacknowledged", "late", "late"]))),
    (1, st.just(LateClose())),
    (4, st.builds(Crash, worker=worker, committed=st.booleans())),
    (4, st.builds(Die, worker=worker, steps=st.integers(1, 9), committed=st.booleans())),
    (2, st.builds(Expel, worker=worker)),
    (3, st.builds(Zombie, zombie=st.integers(0, 3), records=st.integers(0, 3), steps=partly)),
    (2, st.builds(Rebalance, workers=st.integers(1, 2))),
    (2, st.just(Deploy())),
    (1, st.just(ChunkSize())),
    (1, st.builds(Rewind, partition=st.integers(0, 3), records=st.integers(1, 9))),
    (2, st.builds(Retention, partition=st.integers(0, 3), kept=st.integers(0, 3))),
    (1, st.just(Recreate())),
    (2, st.just(AddPartition())),
]  # fmt: skip
steps = st.sampled_from([strategy for weight, strategy in WEIGHTED for _ in range(weight)]).flatmap(
    lambda s: s
)
# Long histories: most planted faults need five or more of the right steps.
histories = st.lists(steps, min_size=15, max_size=45)


def play(sink: Sink, history: list[Step], world: type[World] = World) -> None:
    """Run a history to its end and hold the views against the input."""
    run = world(sink)
    try:
        for step in history:
            run.step(step)
        run.finish()
        limits = [SERIES_LIMIT[code] for code in sorted(run.codes)]
        compare(sink, run.history, run.headless, limits, RULES)
    finally:
        run.store.clear()


def smallest(sink: Sink, history: list[Step], world: type[World] = World, tries: int = 150) -> list[Step]:
    """A history that ends in a mismatch, without the steps that it does not need."""
    size = max(1, len(history) // 2)
    while True:
        at = 0
        while at < len(history):
            shorter = history[:at] + history[at + size :]
            tries -= 1
            if tries < 0:
                return history
            try:
                play(sink, shorter, world)
            except Mismatch:
                history = shorter
            else:
                at += size
        if size == 1:
            return history
        size //= 2


ON_TIME = Line("call")
LATE = Line("call", lateness=5)
CLOSED: list[Step] = [
    Produce(0, ((ON_TIME,),) * 4),
    Read(0, 9),
    Flush(0, committed=True),
    Pass(130_000),
    Pass(130_000),
    Close(),
]
"""Afterwards an event that is 90 s late falls into a window that is closed."""

EXACT: dict[str, list[Step]] = {
    "a worker dies after its rows and before it has named a late window": [
        *CLOSED,
        Produce(0, ((LATE,), (ON_TIME,), (ON_TIME,), (ON_TIME,))),
        Die(0, 4, True),
    ],
    "a correction is heard, refused, and its closer dies": [
        *CLOSED,
        Produce(0, ((LATE,), (ON_TIME,), (ON_TIME,), (ON_TIME,))),
        Read(0, 9),
        Flush(0, committed=True),
        Close(fault="refused"),
        Crash(0),
    ],
    "a flush is under way when the next one is due, and the worker dies": [
        Produce(0, ((ON_TIME,),) * 4),
        Read(0, 9),
        Flush(0, steps=1),
        Produce(0, ((ON_TIME,),) * 4),
        Read(0, 9),
        Flush(0, committed=True),
        Crash(0, committed=True),
    ],
    "windows close before anybody knows of a new partition": [
        AddPartition(),
        Produce(2, ((ON_TIME,),)),
        Pass(130_000),
        Pass(130_000),
        Close(),
        Rebalance(1),
    ],
    "a closer that was replaced writes after its successor has corrected": [
        Produce(0, ((ON_TIME,),) * 4),
        Pass(130_000),
        Produce(0, ((ON_TIME,),) * 4),
        Read(0, 9),
        Flush(0, committed=True),
        Pass(130_000),
        Close(fault="late"),
        Close(),
        Produce(0, ((LATE,), (ON_TIME,), (ON_TIME,), (ON_TIME,))),
        Read(0, 9),
        Flush(0, committed=True),
        Close(),
        LateClose(),
    ],
    "a closer dies between the windows and their checkpoint": [*CLOSED[:-1], Close(fault="torn")],
    "a deploy takes series out of a window that is closed, and corrected later": [
        Deploy(),
        Pass(130_000),
        Produce(0, tuple((Line("call", model=model),) for model in range(3))),
        Read(0, 9),
        Flush(0),
        Pass(130_000),
        Close(),
        Deploy(),
        Produce(0, ((LATE,),)),
        Read(0, 9),
        Flush(0),
        Close(),
    ],
    "an insert is refused once": [
        Produce(0, ((ON_TIME,),) * 4),
        Read(0, 9),
        Flush(0, faults=("refused",), committed=True),
    ],
    "a lane falls behind its log while time passes": [
        Produce(0, ((ON_TIME,),)),
        Pass(130_000),
        Pass(130_000),
        Close(),
    ],
    "a window closes in the middle of a flush": [
        Produce(0, ((ON_TIME,),)),
        Pass(130_000),
        Produce(0, ((ON_TIME,),)),
        Read(0, 9),
        Flush(0, steps=2),
        Close(),
    ],
}
"""Histories that need exact timing, which chance takes long to find."""


@pytest.mark.parametrize("name", EXACT)
def test_the_views_hold_what_the_input_says_where_timing_is_exact(sink: Sink, name: str) -> None:
    play(sink, EXACT[name])


EXAMPLES = 40


@pytest.mark.slow
@pytest.mark.timeout(600)
@settings(
    max_examples=EXAMPLES,
    # Shrinking takes an engine's time for each try: ``smallest`` does what is needed of it.
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
@given(history=histories)
def test_the_views_hold_what_the_input_says_after_every_history(sink: Sink, history: list[Step]) -> None:
    try:
        play(sink, history)
    except Mismatch as error:
        short = smallest(sink, history)
        raise AssertionError(f"{error}\nafter {len(short)} steps:\n" + "\n".join(map(repr, short))) from error
