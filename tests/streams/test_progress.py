"""When windows are complete, and which closed ones are corrected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from sinks.clickhouse import Sink, SinkError
from streams.closer import Closers
from streams.progress import Closing, Progress, ShardProgress, decode_progress, encode_progress

W0 = 1_760_000_040
GRACE_MS = 60_000


def said(
    partition: int,
    reached_s: int,
    *,
    partitions: int = 2,
    incarnation: str = "i",
    reopened: tuple[int, ...] = (),
) -> Progress:
    return Progress(
        topic="t",
        incarnation=incarnation,
        partition=partition,
        partitions=partitions,
        flushed_offset=0,
        reached_ms=(W0 + reached_s) * 1000,
        reopened=list(reopened),
    )


def shard(*progress: Progress, closed_until_s: int = W0) -> ShardProgress:
    made = ShardProgress(GRACE_MS, closed_until_s)
    for each in progress:
        made.hear(each)
    return made


def test_a_window_is_complete_a_grace_period_after_its_end_on_every_partition() -> None:
    assert shard(said(0, 119), said(1, 500)).take() is None
    assert shard(said(0, 120), said(1, 500)).take() == Closing(W0, W0 + 60, ())
    assert shard(said(0, 300), said(1, 500)).take() == Closing(W0, W0 + 240, ())


def test_a_partition_that_was_not_heard_of_is_waited_for() -> None:
    assert shard(said(0, 500)).take() is None
    assert shard(said(0, 500), said(1, 500, partitions=3)).take() is None


def test_progress_that_goes_back_only_delays() -> None:
    made = shard(said(0, 120), said(1, 120))
    closing = made.take()
    assert closing == Closing(W0, W0 + 60, ())
    made.done(closing)
    made.hear(said(1, 10))
    assert made.take() is None
    made.hear(said(0, 200))
    made.hear(said(1, 200))
    assert made.take() == Closing(W0 + 60, W0 + 120, ())


def test_a_new_incarnation_starts_over() -> None:
    made = shard(said(0, 500), said(1, 500), said(0, 500, incarnation="j"))
    assert made.take() is None


def test_closed_windows_that_got_late_events_are_corrected_and_open_ones_are_not() -> None:
    made = shard(said(0, 0, reopened=(W0 - 60, W0, W0 - 120)))
    assert made.take() == Closing(W0, W0, (W0 - 120, W0 - 60))
    assert made.take() is None


def test_what_is_heard_while_windows_are_closed_counts_for_the_next_time() -> None:
    made = shard(said(0, 120), said(1, 120))
    closing = made.take()
    assert closing is not None
    made.hear(said(0, 121, reopened=(W0,)))
    made.done(closing)
    assert made.take() == Closing(W0 + 60, W0 + 60, (W0,))


def test_what_failed_is_due_again() -> None:
    made = shard(said(0, 120, reopened=(W0 - 60,)), said(1, 120))
    closing = made.take()
    assert closing is not None
    made.failed(closing)
    assert made.take() == closing


def test_progress_survives_its_encoding_and_nonsense_is_none() -> None:
    progress = said(1, 5, reopened=(W0,))
    assert decode_progress(encode_progress(progress)) == progress
    for value in (b"", b"{}", b"\xff", b'{"topic":1}'):
        assert decode_progress(value) is None


class Sinkless:
    """Where work is handed to, and fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.done = 0

    async def once(self, work: Callable[[Sink], None]) -> None:
        if self.failures:
            self.failures -= 1
            raise SinkError("no answer")
        self.done += 1


def closers(*closed_until_s: int) -> tuple[Closers, list[object]]:
    acknowledged: list[object] = []
    numbers = dict(enumerate(closed_until_s))
    return Closers(numbers, numbers, GRACE_MS, acknowledged.append), acknowledged


def test_progress_is_acknowledged_when_its_windows_are_stored() -> None:
    made, acknowledged = closers(W0)
    made.hear(0, said(0, 120), "a")
    made.hear(0, said(1, 120), "b")
    sink = Sinkless(failures=1)
    assert asyncio.run(made.close(sink.once)) == 0
    assert acknowledged == []
    made.hear(0, None, "c")
    assert asyncio.run(made.close(sink.once)) == 1
    assert acknowledged == ["a", "b", "c"]


def test_shards_that_stand_at_the_same_place_are_closed_together() -> None:
    made, _ = closers(W0, W0, W0 - 60)
    for number in range(3):
        for partition in (0, 1):
            made.hear(number, said(partition, 120), (number, partition))
    sink = Sinkless()
    assert asyncio.run(made.close(sink.once)) == 2
    assert sink.done == 2


@pytest.mark.parametrize("failures", [1, 2])
def test_one_closing_that_fails_takes_no_correction_of_another_with_it(failures: int) -> None:
    made, acknowledged = closers(W0, W0 + 60)
    for number in range(2):
        made.hear(number, said(0, 0, reopened=(W0 - 60,)), number)
    sink = Sinkless(failures)
    asyncio.run(made.close(sink.once))
    assert acknowledged == []
    asyncio.run(made.close(sink.once))
    assert acknowledged == [0, 1]
    assert sink.done == 2


def test_revoked_closers_acknowledge_nothing() -> None:
    made, acknowledged = closers(W0)
    made.hear(0, said(0, 120), "a")
    made.live = False
    asyncio.run(made.close(Sinkless().once))
    assert acknowledged == []
