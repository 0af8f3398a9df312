"""When a topic is taken to hold something else than events: over several flushes, and what is said of it."""

from __future__ import annotations

from signals.lane import Lane, LaneRows, Rules
from streams.verdict import JUDGED_LINES, Spoiled, Verdict
from tests.event import T0_MS, call, record

RECORDS = 25


def rows(events: int, rejects: int, *, offset: int = 0, bad: bytes = b"no event") -> LaneRows:
    """What one flush of a partition gives; its first records hold the rejects."""
    lane = Lane(1, offset, Rules())
    for number in range(RECORDS if rejects else 0):
        share = rejects // RECORDS + (number < rejects % RECORDS)
        lane.feed(offset + number, T0_MS, record(*[bad] * share))
    if events:
        lane.feed(offset + RECORDS, T0_MS, record(*[call(number) for number in range(events)]))
    flushed = lane.flush()
    assert flushed is not None
    return flushed


def test_the_flush_that_completes_the_lines_may_hold_no_reject_of_its_own() -> None:
    verdict = Verdict()
    assert verdict.judge([(3, rows(0, 1_990))]) is None
    assert verdict.judge([(3, rows(20, 0, offset=10))]) == Spoiled(2_010, 1_990, ["invalid_json"], 3, 0, 0)


def test_reasons_are_those_of_all_flushes_and_the_place_is_the_first() -> None:
    verdict = Verdict()
    assert verdict.judge([(2, rows(5, 0)), (7, rows(0, 1_000, offset=40))]) is None
    assert verdict.judge([(1, rows(0, 1_000, bad=b"{}"))]) == Spoiled(
        2_005, 2_000, ["invalid_event", "invalid_json"], 7, 40, 0
    )


def test_one_flush_is_enough_when_it_is_large() -> None:
    assert Verdict().judge([(0, rows(0, JUDGED_LINES))]) is not None


def test_one_file_sent_by_mistake_is_no_reason_to_stop() -> None:
    lane = Lane(1, 0, Rules())
    lane.feed(0, T0_MS, record(*[b"no event"] * (2 * JUDGED_LINES)))
    flushed = lane.flush()
    assert flushed is not None
    assert Verdict().judge([(0, flushed)]) is None


def test_long_bad_records_that_come_few_at_a_time_stop_it_too() -> None:
    """A flush of each of them would be enough lines, and never enough records."""
    verdict = Verdict()
    lane = Lane(1, 0, Rules())
    for offset in range(20):
        lane.feed(offset, T0_MS, record(*[b"no event"] * JUDGED_LINES))
        flushed = lane.flush()
        assert flushed is not None
        spoiled = verdict.judge([(0, flushed)])
        assert (spoiled is None) == (offset < 19)
    assert spoiled is not None
    assert (spoiled.lines, spoiled.offset) == (20 * JUDGED_LINES, 0)


def test_fewer_lines_are_not_judged() -> None:
    assert Verdict().judge([(0, rows(0, JUDGED_LINES - 1))]) is None


def test_a_topic_with_enough_events_is_not_spoiled() -> None:
    assert Verdict().judge([(0, rows(101, 1_899))]) is None
    assert Verdict().judge([(0, rows(100, 1_900))]) is not None


def test_what_was_bad_long_ago_does_not_count_any_more() -> None:
    verdict = Verdict()
    assert verdict.judge([(0, rows(0, 1_999))]) is None
    assert verdict.judge([(0, rows(JUDGED_LINES, 0, offset=10))]) is None
    assert verdict.judge([(0, rows(0, 1_999, offset=20))]) is None


def test_flushes_without_rejects_are_fine() -> None:
    assert Verdict().judge([(0, rows(JUDGED_LINES, 0))]) is None
