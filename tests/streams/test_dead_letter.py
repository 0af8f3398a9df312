"""Dead letters on a real broker and a real engine: shown whole, sent again once, through crashes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from gatewatch.events import Call, Reject, decode_line, encode
from signals.lane import Lane, Rules
from sinks import dead_letter as store
from sinks.clickhouse import Sink, SinkError
from sinks.dead_letter import SENDING, SENT, DeadLetterFilter, Place, mark, marks_at, server_time_ms
from streams import dead_letter
from streams.broker import Broker
from streams.dead_letter import (
    HEADER,
    Address,
    DeadLetterError,
    DeadLetters,
    Outcome,
    parse_address,
)
from streams.setting import Settings
from streams.source import TopicIdentity, identify, register
from tests.event import call, record
from tests.stored import flush

BROKEN = b'{"kind":"call","call_id":"broken'


def fresh(number: int, **fields: Any) -> Call:
    return call(number, at_ms=time.time_ns() // 1_000_000, **fields)


class Fixture:
    """A topic, what a worker would have stored of it, and its dead letters."""

    def __init__(self, broker: Broker, sink: Sink, topic: str) -> None:
        self.broker = broker
        self.sink = sink
        self.topic = topic
        self.identity: TopicIdentity = identify(broker.bootstrap, topic)
        self.settings = Settings(kafka=broker.bootstrap, events_topic=topic)
        register(sink, self.identity, list(range(self.identity.partitions)), 1000)

    def send(self, *values: bytes, partition: int = 0) -> None:
        producer = KafkaProducer(bootstrap_servers=self.broker.bootstrap)
        try:
            for value in values:
                producer.send(self.topic, value, partition=partition).get(timeout=20)
        finally:
            producer.close()

    def records(self, partition: int = 0) -> list[Any]:
        consumer = KafkaConsumer(
            bootstrap_servers=self.broker.bootstrap, group_id=None, enable_auto_commit=False
        )
        try:
            tp = TopicPartition(self.topic, partition)
            consumer.assign([tp])
            consumer.seek_to_beginning(tp)
            end = consumer.end_offsets([tp])[tp]
            found: list[Any] = []
            deadline = time.monotonic() + 30
            while consumer.position(tp) < end:
                assert time.monotonic() < deadline, "the topic cannot be read"
                found += consumer.poll(timeout_ms=200).get(tp, [])
            return found
        finally:
            consumer.close()

    def work(self, partition: int = 0) -> None:
        """Store the partition from its start, as a worker does."""
        lane = Lane(self.identity.source(partition), 0, Rules())
        for one in self.records(partition):
            lane.feed(one.offset, one.timestamp, one.value)
        flush(self.sink, lane)

    def letters(self) -> DeadLetters:
        return DeadLetters(self.sink, self.settings)

    def id(self, offset: int, line: int = 0, partition: int = 0) -> str:
        return f"{self.topic}/{partition}/{offset}/{line}"

    def place(self, offset: int, line: int = 0, partition: int = 0) -> Place:
        return Place(self.identity.source(partition), offset, line)

    def replay(self, *wanted: tuple[str, bytes | None], dry_run: bool = False) -> list[Outcome]:
        return list(self.letters().replay(wanted, dry_run=dry_run))

    def sent_again(self, partition: int = 0) -> list[bytes]:
        """Header values of the records that were sent again."""
        return [value for one in self.records(partition) for key, value in one.headers if key == HEADER]

    def counted(self) -> tuple[int, int]:
        ((events, rejects),) = self.sink.rows("SELECT sum(events), sum(rejects) FROM gatewatch.delivery")
        return events, rejects


@pytest.fixture
def made(broker: Broker, sink: Sink, make_topic: Callable[[int], str]) -> Iterator[Fixture]:
    yield Fixture(broker, sink, make_topic(2))


def results(outcomes: list[Outcome]) -> list[tuple[str, str]]:
    return [(outcome.result, outcome.reason) for outcome in outcomes]


def test_a_repaired_line_is_sent_once_and_counted_once(made: Fixture) -> None:
    made.send(record(encode(fresh(1)), BROKEN), record(encode(fresh(2))))
    made.work()
    repaired = encode(fresh(3, emitter_id="gateway", seq=41))

    assert results(made.replay((made.id(0, 1), repaired))) == [("sent", "")]
    assert results(made.replay((made.id(0, 1), repaired))) == [("refused", "already_replayed")]
    assert made.sent_again() == [f"{made.identity.source(0)}/0/1".encode()]

    made.work()
    assert made.counted() == (3, 1)
    (event,) = [decode_line(one.value) for one in made.records() if one.headers]
    assert not isinstance(event, Reject)
    # A number of its own, or the gateway's emitter would seem to have sent 41 events more or twice.
    assert event.emitter_id.startswith("replay-")
    assert event.seq == 0
    rows = made.sink.rows(
        "SELECT gaps, duplicates, lost FROM gatewatch.emitters WHERE emitter_id LIKE 'replay-%'"
    )
    assert list(rows[0]) == [0, 0, 0]
    # Listed no more, unless asked for.
    assert made.letters().find(DeadLetterFilter()) == []
    ((_, letter),) = made.letters().find(DeadLetterFilter(sent=True))
    assert letter.state == SENT


def test_a_line_that_is_still_no_event_is_refused_and_the_others_go_on(made: Fixture) -> None:
    old = encode(call(1, at_ms=time.time_ns() // 1_000_000 - 30 * 86_400_000))
    usage = encode(fresh(2, provider_usage={"prompt_tokens": -1, "completion_tokens": 1}))
    newer = encode(fresh(3))[:-1] + b',"v":2}'
    made.send(record(BROKEN, old, usage, newer, b"\xff", b"{}"))
    made.work()
    outcomes = made.replay(
        *[(made.id(0, line), None) for line in range(5)],
        (made.id(0, 5), encode(fresh(4))),
        (made.id(0, 6), encode(fresh(5))),
        (made.id(0, 5), encode(fresh(6))),
        ("no id", None),
        ("nowhere/0/0/0", None),
    )
    by_id = {
        outcome.id: (outcome.result, outcome.reason)
        for outcome in outcomes
        if outcome.reason != "named_twice"
    }
    assert by_id == {
        made.id(0, 0): ("refused", "invalid_json"),
        made.id(0, 1): ("refused", "event_too_old"),
        made.id(0, 2): ("refused", "invalid_usage"),
        made.id(0, 3): ("refused", "unsupported_version"),
        made.id(0, 4): ("refused", "invalid_json"),
        made.id(0, 5): ("sent", ""),
        made.id(0, 6): ("refused", "not_found"),
        "no id": ("refused", "invalid_id"),
        "nowhere/0/0/0": ("refused", "not_found"),
    }
    assert [outcome.reason for outcome in outcomes].count("named_twice") == 1
    (too_old,) = [outcome for outcome in outcomes if outcome.reason == "event_too_old"]
    assert "cannot be sent again with its own time" in too_old.detail
    assert len(made.sent_again()) == 1
    # What was refused is still there to be repaired.
    assert len(made.letters().find(DeadLetterFilter())) == 5


def test_a_line_is_sent_as_it_is_when_the_workers_limits_have_changed(made: Fixture) -> None:
    old = encode(call(1, at_ms=time.time_ns() // 1_000_000 - 30 * 86_400_000))
    made.send(old)
    made.work()
    made.settings = Settings(kafka=made.broker.bootstrap, max_event_age_days=60)
    assert results(made.replay((made.id(0), None))) == [("sent", "")]
    assert getattr(decode_line(made.records()[-1].value), "call_id", None) == "call-1"


def test_a_dry_run_sends_and_marks_nothing(made: Fixture) -> None:
    made.send(BROKEN)
    made.work()
    assert results(made.replay((made.id(0), encode(fresh(1))), dry_run=True)) == [("would_send", "")]
    assert made.sent_again() == []
    assert marks_at(made.sink, [made.place(0)]) == []


def test_each_partition_has_its_letters_back_numbered_without_gaps(made: Fixture) -> None:
    for partition in (0, 1):
        made.send(record(BROKEN, BROKEN, BROKEN), partition=partition)
        made.work(partition)
    wanted = [(made.id(0, line, partition), encode(fresh(line))) for line in range(3) for partition in (0, 1)]
    assert {outcome.result for outcome in made.replay(*wanted)} == {"sent"}
    for partition in (0, 1):
        events = [decode_line(one.value) for one in made.records(partition) if one.headers]
        assert [getattr(event, "seq", None) for event in events] == [0, 1, 2]
        made.work(partition)
    rows = made.sink.rows("SELECT emitter_id, received, gaps, lost FROM gatewatch.emitters")
    assert sorted(list(row[1:]) for row in rows) == [[3, 0, 0], [3, 0, 0]]


def test_many_letters_are_sent_in_batches(made: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letter, "_BATCH", 4)
    made.send(record(*[BROKEN] * 10))
    made.work()
    wanted = [(made.id(0, line), encode(fresh(line))) for line in range(10)]
    assert results(made.replay(*wanted)) == [("sent", "")] * 10
    assert len(set(made.sent_again())) == 10


# -- interrupted -------------------------------------------------------------------------------


def interrupt(made: Fixture, monkeypatch: pytest.MonkeyPatch, *, after_sending: bool) -> None:
    """Replay letter 0 and die before it is produced, or before it is marked as sent."""

    class KilledError(BaseException):
        pass

    real = store.mark

    def dying(sink: Sink, states: dict[Place, int], at_ms: int) -> None:
        if SENT in states.values():
            raise KilledError
        real(sink, states, at_ms)
        if not after_sending:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(dead_letter, "mark", dying)
        with pytest.raises(KilledError):
            made.replay((made.id(0), encode(fresh(1))))


def age(made: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a minute pass."""
    monkeypatch.setattr(dead_letter, "_SETTLE_MS", 0)


@pytest.mark.parametrize("after_sending", [False, True], ids=["before producing", "after producing"])
def test_an_interrupted_replay_is_left_alone_for_a_minute_and_then_finished(
    made: Fixture, monkeypatch: pytest.MonkeyPatch, after_sending: bool
) -> None:
    made.send(BROKEN)
    made.work()
    interrupt(made, monkeypatch, after_sending=after_sending)
    again = made.id(0), encode(fresh(1))
    assert results(made.replay(again)) == [("refused", "being_replayed")]
    ((_, letter),) = made.letters().find(DeadLetterFilter())
    assert letter.state == SENDING

    age(made, monkeypatch)
    expected = "sent_before" if after_sending else "sent"
    assert results(made.replay(again, dry_run=True)) == [
        ("sent_before" if after_sending else "would_send", "")
    ]
    assert results(made.replay(again)) == [(expected, "")]
    assert len(made.sent_again()) == 1
    assert results(made.replay(again)) == [("refused", "already_replayed")]
    made.work()
    assert made.counted() == (1, 1)


def test_what_retention_has_taken_is_not_sent_on_a_guess(
    made: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.send(BROKEN)
    made.work()
    interrupt(made, monkeypatch, after_sending=True)
    made.send(encode(fresh(2)))
    delete_before(made, 2)
    age(made, monkeypatch)
    (outcome,) = made.replay((made.id(0), encode(fresh(1))))
    assert (outcome.result, outcome.reason) == ("unknown", "cannot_tell")
    assert "Kafka has deleted records of that time" in outcome.detail
    assert not outcome.is_well


def delete_before(made: Fixture, offset: int) -> None:
    from streams.topic import admin_client

    with admin_client(made.broker.bootstrap, 20) as admin:
        admin.delete_records({TopicPartition(made.topic, 0): offset})


def test_two_replays_at_once_do_not_send_a_letter_twice(
    made: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one marks the letter between our look at it and our own mark."""
    made.send(BROKEN)
    made.work()
    real = store.mark

    def beaten(sink: Sink, states: dict[Place, int], at_ms: int) -> None:
        real(sink, dict.fromkeys(states, SENDING), at_ms - 3)
        real(sink, states, at_ms)

    with monkeypatch.context() as patch:
        patch.setattr(dead_letter, "mark", beaten)
        assert results(made.replay((made.id(0), encode(fresh(1))))) == [("refused", "being_replayed")]
    assert made.sent_again() == []


def test_a_letter_that_another_replay_sent_meanwhile_is_not_sent(
    made: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.send(BROKEN)
    made.work()
    real = store.mark

    def beaten(sink: Sink, states: dict[Place, int], at_ms: int) -> None:
        real(sink, dict.fromkeys(states, SENT), at_ms - 3)
        real(sink, states, at_ms)

    with monkeypatch.context() as patch:
        patch.setattr(dead_letter, "mark", beaten)
        assert results(made.replay((made.id(0), encode(fresh(1))))) == [("refused", "being_replayed")]
    assert made.sent_again() == []
    # A mark of an earlier state does not take back a later one.
    assert results(made.replay((made.id(0), encode(fresh(1))))) == [("refused", "already_replayed")]


def test_an_engine_that_fails_before_the_first_mark_sends_nothing(
    made: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.send(BROKEN)
    made.work()

    def down(*_: object) -> None:
        raise SinkError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(dead_letter, "mark", down)
        with pytest.raises(SinkError):
            made.replay((made.id(0), encode(fresh(1))))
    assert made.sent_again() == []
    assert results(made.replay((made.id(0), encode(fresh(1))))) == [("sent", "")]


def test_without_kafka_nothing_is_marked(made: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    made.send(BROKEN)
    made.work()
    monkeypatch.setattr(dead_letter, "_KAFKA_TIMEOUT_S", 0.3)
    made.settings = Settings(kafka="127.0.0.1:9")
    with pytest.raises(DeadLetterError, match=r"nothing listens on 127\.0\.0\.1:9"):
        made.replay((made.id(0), encode(fresh(1))))
    assert marks_at(made.sink, [made.place(0)]) == []


# -- shown -------------------------------------------------------------------------------------


def test_a_long_line_is_shown_whole_from_kafka_and_cut_once_kafka_has_dropped_it(made: Fixture) -> None:
    long = b'"' + b"y" * 200_000 + b'"'
    made.send(record(encode(fresh(1)), long, BROKEN))
    made.work()
    address = parse_address(made.id(0, 1))
    shown = made.letters().show(address)
    assert (shown.value, shown.missing, shown.size) == (long, "", len(long))

    made.send(encode(fresh(2)))
    delete_before(made, 1)
    shown = made.letters().show(address)
    assert shown.value == long[:65_536]
    assert "65536 of 200002 bytes are stored" in shown.missing
    assert "it has expired" in shown.missing
    assert results(made.replay((str(address), None))) == [("refused", "incomplete")]
    # What is stored whole needs no Kafka.
    assert made.letters().show(parse_address(made.id(0, 2))).value == BROKEN


def test_a_line_that_no_worker_stored_is_shown_from_kafka(made: Fixture) -> None:
    made.send(record(encode(fresh(1)), b"\xff\xfe"))
    shown = made.letters().show(parse_address(made.id(0, 1)))
    assert (shown.value, shown.is_stored, shown.reason) == (b"\xff\xfe", False, "invalid_json")
    for line, message in ((0, "is a valid event"), (2, "has 2 lines")):
        with pytest.raises(DeadLetterError, match=message):
            made.letters().show(parse_address(made.id(0, line)))
    with pytest.raises(DeadLetterError, match="is not among them"):
        made.letters().show(parse_address(made.id(99)))
    with pytest.raises(DeadLetterError, match="has no partition 7"):
        made.letters().show(parse_address(made.id(0, 0, 7)))


def test_letters_of_a_topic_that_was_made_again_have_addresses_of_their_own(made: Fixture) -> None:
    made.send(BROKEN)
    made.work()
    before = made.identity
    now = TopicIdentity(before.cluster, before.topic, "made again", before.partitions)
    register(made.sink, now, [0, 1], 1000)
    letters = made.letters()
    ((address, letter),) = letters.find(DeadLetterFilter())
    assert address == Address(made.topic, 0, 0, 0, before.source(0))
    assert parse_address(str(address)) == address
    assert letters.place(address) == letter.place
    assert letters.show(address).value == BROKEN
    assert letters.place(parse_address(made.id(0))) == Place(now.source(0), 0, 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "t",
        "t/0/0",
        "t/0/0/0/0",
        "t/-1/0/0",
        "t/0/x/0",
        "t/0/9223372036854775808/0",
        "t/0/0/2147483648",
        "a b/0/0/0",
        "t/0/0/0@",
        "t/0/0/0@x",
    ],
)
def test_what_is_no_id_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValueError, match="is no dead letter's id"):
        parse_address(text)


# -- stored ------------------------------------------------------------------------------------


def test_letters_are_found_by_reason_and_time_and_counted(made: Fixture) -> None:
    made.send(record(BROKEN, b"{}", BROKEN), b"")
    made.work()
    letters = made.letters()
    everything = letters.find(DeadLetterFilter())
    assert [str(address) for address, _ in everything] == [
        made.id(0, 0),
        made.id(0, 1),
        made.id(0, 2),
        made.id(1, 0),
    ]
    newest = letters.find(DeadLetterFilter(), limit=1, newest_first=True)
    assert [letter.reason for _, letter in newest] == ["empty_record"]
    assert len(letters.find(DeadLetterFilter(reasons=("invalid_json",)))) == 2
    assert len(letters.find(DeadLetterFilter(reasons=("invalid_json", "empty_record")))) == 3
    assert letters.find(DeadLetterFilter(reasons=("'; DROP TABLE",))) == []
    last_ms = everything[-1][1].appended_ms
    assert len(letters.find(DeadLetterFilter(since_ms=last_ms))) >= 1
    assert letters.find(DeadLetterFilter(since_ms=last_ms + 1)) == []

    counts = store.count_reasons(made.sink, DeadLetterFilter())
    assert [(count.reason, count.letters, count.bytes) for count in counts] == [
        ("invalid_json", 2, 2 * len(BROKEN)),
        ("empty_record", 1, 0),
        ("invalid_event", 1, 2),
    ]
    mark(made.sink, {made.place(0, 0): SENT}, server_time_ms(made.sink))
    assert [count.letters for count in store.count_reasons(made.sink, DeadLetterFilter())] == [1, 1, 1]
    assert store.count_reasons(made.sink, DeadLetterFilter(sent=True)) == counts


def test_the_bytes_of_every_line_come_back_as_they_were(made: Fixture) -> None:
    lines = [bytes([number, 255 - number]) for number in range(256) if number not in (10, 245)]
    made.send(record(*lines))
    made.work()
    places = [made.place(0, line) for line in range(len(lines))]
    assert store.read_values(made.sink, places) == dict(zip(places, lines, strict=True))
