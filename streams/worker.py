"""The worker: a Faust application around lanes, a writer and closers.

Faust moves records and commits offsets; everything that is computed is computed in ``signals``. Its
traps (``docs/decisions``) set the shape: raw topics, ``noack().events()``, acknowledgement in order,
``stream_wait_empty`` off, no tables, no ``take()``, no web server, and an unexpected error ends the
process, because a Faust agent that is restarted goes on behind the records that it lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Final

import faust
import pyarrow as pa
import uvloop
from aiokafka import TopicPartition
from aiokafka.errors import IllegalStateError
from faust.types import TP

from gatewatch.price_ledger import TRUST_MS, PriceLedger
from gatewatch.price_table import PriceError
from signals.chunk import WINDOW_S
from signals.decoder import prepare
from signals.lane import Lane, LaneRows, Rules
from sinks.clickhouse import Sink, SinkError
from sinks.closing import checkpoints
from sinks.price import PAGE, fill_rows, refresh, register_package
from sinks.schema import STORE
from streams.closer import Closers
from streams.consumer import FETCH_BYTES, install
from streams.health import Health, read_emitters
from streams.partition import Partition, deliver, flush_lanes
from streams.process import STOPPED_FOR_GOOD
from streams.progress import Progress, decode_progress, encode_progress
from streams.setting import Settings
from streams.source import SourceError, TopicIdentity, identify, known_sources, register
from streams.start import LogTruncatedError, start_offset
from streams.topic import PROGRESS_PARTITIONS, PROGRESS_TOPIC, TopicError
from streams.verdict import Verdict
from streams.writer import Writer, insert

__all__ = ["Worker", "WorkerError", "run"]

log = logging.getLogger(__name__)

_PROGRESS_EVERY_S: Final = 10.0
_SAMPLE_EVERY_S: Final = 5.0
_EMITTERS_EVERY_S: Final = 30.0
_EMITTERS_SHARE: Final = 0.02
"""The query on emitters may take that much of the writer's time; the more chunks, the less often it runs."""
_IDENTIFY_EVERY_S: Final = 30.0
_PRICES_EVERY_S: Final = 15.0
"""Half of TRUST_MS: records need not wait for the ledger unless a look at it fails."""
_PRICES_AGAIN_S: Final = 1.0
"""The broker's clock is ahead of the store's for more than TRUST_MS where this much is not enough."""
_CHECKED_FOR_S: Final = 0.5
"""A topic is not deleted, made and filled again in less."""
_QUIET_S: Final = 5.0
"""While records come without such a pause, a topic cannot go and come without the consumer seeing it."""
_DRAIN_S: Final = 20.0
_BEGIN_S: Final = 45.0
"""Faust gives up an assignment that takes longer than a request (60 s), and never reads again."""
_RECORD_BYTES: Final = 512
_LINE_BYTES: Final = 64
_LEAVE_S: Final = 5.0
"""With the drain it is less than the 30 s after which Kubernetes kills."""


class WorkerError(RuntimeError):
    """The worker cannot go on; the message says why and what to do."""


class TopicSpoiledError(WorkerError):
    """Nearly nothing in the topic is an event: started again, the worker would find the same."""


class Worker:
    """Everything of one worker process.

    Parameters
    ----------
    settings
        From the environment.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.name = f"{socket.gethostname()}-{os.getpid()}"
        self.rules = Rules(
            chunk_records=settings.chunk_records,
            grace_ms=int(settings.grace_s * 1000),
            max_age_ms=int(settings.max_event_age_days * 86_400_000),
            max_skew_ms=int(settings.max_clock_skew_s * 1000),
            series_limit=settings.series_limit,
        )
        self.partitions: dict[int, Partition] = {}
        self.closers = self._make_closers([], {})
        self.prices = PriceLedger()
        self.price_read_errors_total = 0
        self._priced_until_ms = 0
        self._prices_read_at_s = -_PRICES_AGAIN_S
        self.identity: TopicIdentity | None = None
        self.begun = False
        """Whether partitions were assigned at least once, and are read."""
        self.waiting_since_s: float | None = None
        """Since when partitions are being handed over, on the monotonic clock; None while they are read."""
        self.headless_chunks_total = 0
        self.records_expired_total = 0
        self.events_total = 0
        self.rejects_total = 0
        self.late_events_total = 0
        self.duplicate_events_total = 0
        self.windows_closed_total = 0
        self._fed_bytes = 0
        self._beginning = asyncio.Lock()
        self._room = asyncio.Event()
        self._room.set()
        self._wake = asyncio.Event()
        self._stopping = False
        self._failure: asyncio.Future[None] | None = None
        self._checked_at_s = -_CHECKED_FOR_S
        self._fed_at_s = time.monotonic()
        self._emitters_due_s = 0.0
        self._published: dict[int, tuple[float, int]] = {}
        self._verdict = Verdict()
        self.writer = Writer(
            lambda: Sink(
                settings.clickhouse_url, settings.clickhouse_user, settings.clickhouse_password.reveal()
            )
        )
        self.health = Health(self)
        self.app = self._make_app()

    def _make_app(self) -> faust.App:
        settings = self.settings
        app = faust.App(
            settings.consumer_group,
            broker=[f"kafka://{server}" for server in settings.kafka.split(",")],
            datadir=str(Path(settings.data_dir) / "faust"),
            store="memory://",
            web_enabled=False,
            topic_disable_leader=True,
            stream_wait_empty=False,  # a partial chunk is never acknowledged: a rebalance would hang
            stream_buffer_maxsize=256,  # records, and a record can hold 500 events
            table_standby_replicas=0,
            processing_guarantee="at_least_once",
            consumer_auto_offset_reset="earliest",
            broker_commit_interval=1.0,
            broker_max_poll_records=500,
            consumer_max_fetch_size=FETCH_BYTES,
            broker_session_timeout=settings.session_timeout_s,
            broker_heartbeat_interval=settings.session_timeout_s / 10,
            broker_request_timeout=max(60.0, settings.session_timeout_s + 10),
            consumer_metadata_max_age_ms=30_000,  # how soon added partitions are noticed
            stream_recovery_delay=0.0,
        )
        install(app, self.on_assigned)
        events = app.topic(
            settings.events_topic, value_type=bytes, value_serializer="raw", key_serializer="raw"
        )
        progress = app.topic(PROGRESS_TOPIC, value_type=bytes, value_serializer="raw", key_serializer="raw")
        app.agent(events, name="lanes", concurrency=1)(self._feed)
        app.agent(progress, name="closers", concurrency=1)(self._hear)
        app.on_partitions_revoked.connect(self._on_revoked)
        return app

    # -- where partitions start ----------------------------------------------------------------

    async def on_assigned(self, consumer: Any) -> None:
        """Begin anew with the partitions that are assigned now; called before records flow."""
        try:
            # Faust also asks for it while a rebalance is under way, for what was assigned before.
            async with self._beginning, asyncio.timeout(_BEGIN_S):
                await self._begin(consumer)
        except IllegalStateError:
            log.info("partitions have moved on while they were being assigned; they are assigned anew")
        except TimeoutError:
            self._fail(
                WorkerError(
                    f"ClickHouse or Kafka did not answer for {_BEGIN_S:g} s while partitions were assigned; "
                    "the worker ends, to be started again"
                )
            )
        except (SourceError, TopicError) as error:
            self._fail(WorkerError(str(error)))
        except Exception as error:  # Faust would go on without having sought
            self._fail(error)

    async def _begin(self, consumer: Any) -> None:
        self._forget()
        assigned = set(consumer.assignment())
        topic = self.settings.events_topic
        numbers = sorted(tp.partition for tp in assigned if tp.topic == topic)
        shards = sorted(tp.partition for tp in assigned if tp.topic == PROGRESS_TOPIC)
        self.identity = await asyncio.to_thread(identify, self.settings.kafka, topic)
        if not self.prices.newest:
            await self.writer.persistently(_register_prices)
        await self.read_prices()
        known = await self.writer.persistently(
            lambda sink: known_sources(sink, self._identity, numbers, self.rules.chunk_records)
        )
        closed = await self.writer.persistently(checkpoints)
        # Closers elsewhere may close up to now without this worker hearing of it; naming a window that is
        # still open costs nothing.
        closed_until_s = max([*closed.values(), int(time.time()) - self.rules.grace_ms // 1000])
        closed_until_s -= closed_until_s % WINDOW_S
        committed = dict(consumer._committed_offset)
        tps = [TP(topic, number) for number in numbers]
        if tps:
            earliest = await consumer.earliest_offsets(*tps)
            ends = await consumer.highwaters(*tps)
            for tp in tps:
                await self._start(consumer, tp, known[tp.partition], earliest[tp], ends[tp], closed_until_s)
        fresh = [number for number in numbers if not known[number]]
        stale = {
            tp: self.partitions[tp.partition].flushed_offset + 1
            for tp in tps
            if tp.partition in fresh and tp.partition in self.partitions and committed.get(tp) is not None
        }
        # The next start must not believe what was committed for an earlier incarnation of the topic.
        if stale and not await consumer._thread.commit(stale):
            return  # the partitions have moved on already, and are assigned anew
        if fresh:
            await self.writer.persistently(
                lambda sink: register(sink, self._identity, fresh, self.rules.chunk_records)
            )
        if consumer.assignment() != assigned:
            self._forget()
            return  # another assignment is on its way
        self.closers = self._make_closers(shards, closed)
        self.begun, self.waiting_since_s = True, None
        log.info("reading %s partitions of %s, closing windows of %s shards", len(tps), topic, len(shards))

    async def _start(
        self, consumer: Any, tp: TP, known: bool, earliest: int, end: int, closed_until_s: int
    ) -> None:
        """Seek to the start of a chunk."""
        committed = consumer._committed_offset.get(tp)
        try:
            start = start_offset(
                committed=committed,
                earliest=earliest,
                end=end,
                known=known,
                chunk_records=self.rules.chunk_records,
            )
        except LogTruncatedError as error:
            raise WorkerError(
                f"partition {tp.partition} of {tp.topic}: {error}; the broker has lost records that were "
                "stored. Compare the delivery view with the topic, then reset the group's offsets to the "
                "log's end"
            ) from error
        lane = Lane(self._identity.source(tp.partition), start, self.rules, closed_until_s, self.prices)
        if lane.headless:
            self.headless_chunks_total += 1
            log.error(
                "partition %s: records before offset %s can no longer be read, so the aggregates of the "
                "chunk from %s stay as they are; its calls and dead letters are stored",
                tp.partition,
                start,
                start - start % self.rules.chunk_records,
            )
        await consumer.seek(tp, start)
        consumer._committed_offset[tp] = start or None
        self.partitions[tp.partition] = Partition(tp.partition, lane, self._acknowledge)

    # -- prices --------------------------------------------------------------------------------

    async def read_prices(self, *, once: bool = False) -> None:
        """Learn of the versions of prices that were made since the last time.

        Raises
        ------
        SinkError
            Asked once only, and ClickHouse did not answer.
        WorkerError
            A version cannot be read by this release.
        """
        while True:
            work = partial(refresh, self.prices.newest)
            read_ms, versions = await (self.writer.once(work) if once else self.writer.persistently(work))
            try:
                for version, documents in versions:
                    self.prices.add(version, documents)
            except PriceError as error:
                raise WorkerError(
                    f"{error}. A later release may have made it: start workers of that one, since no version "
                    "can be left out"
                ) from error
            if versions:
                log.info("prices: version %s is known", self.prices.newest)
            if len(versions) < PAGE:
                break
        self._priced_until_ms = max(self._priced_until_ms, read_ms + TRUST_MS)
        self._prices_read_at_s = time.monotonic()

    async def _know_prices(self, appended_ms: int) -> None:
        """Return when every version that may price a record is known (:mod:`gatewatch.price_ledger`)."""
        if (
            appended_ms > self._priced_until_ms
            and time.monotonic() - self._prices_read_at_s >= _PRICES_AGAIN_S
        ):
            await self.read_prices()

    async def _read_prices_for_ever(self) -> None:
        while not self._stopping:
            await asyncio.sleep(_PRICES_EVERY_S)
            try:
                await self.read_prices(once=True)
            except SinkError as error:
                # Records of the next seconds may still be priced; those that may not wait for the ledger.
                self.price_read_errors_total += 1
                log.warning("the ledger of prices cannot be read: %s", error)

    async def _on_revoked(self, *_: Any, **__: Any) -> None:
        self._forget()

    def _forget(self) -> None:
        for partition in self.partitions.values():
            partition.live = False
        self.closers.live = False
        self.partitions = {}
        self.closers = self._make_closers([], {})
        if self.waiting_since_s is None:
            self.waiting_since_s = time.monotonic()
        self._published.clear()
        self._fed_bytes = 0
        self._room.set()

    def _make_closers(self, shards: list[int], closed_until_s: dict[int, int]) -> Closers:
        return Closers(shards, closed_until_s, self.rules.grace_ms, self._acknowledge)

    @property
    def _identity(self) -> TopicIdentity:
        assert self.identity is not None
        return self.identity

    def _acknowledge(self, message: Any) -> None:
        message.ack(self.app.consumer)

    # -- stage 1: lanes ------------------------------------------------------------------------

    async def _feed(self, stream: Any) -> None:
        """The agent of the events topic."""
        try:
            async for event in stream.noack().events():
                message = event.message
                partition = self.partitions.get(message.partition)
                fed_at_s, self._fed_at_s = self._fed_at_s, time.monotonic()
                if partition is not None and (
                    message.offset == 0
                    or message.offset <= partition.lane.through
                    or self._fed_at_s - fed_at_s > _QUIET_S
                ):
                    # Where offsets begin again, or while nobody looked, the topic may have been deleted and
                    # made again: its records must not be taken for those of the old one.
                    await self._check_incarnation()
                appended_ms = int(message.timestamp * 1000 + 0.5)
                if partition is not None and appended_ms > self._priced_until_ms:
                    await self._know_prices(appended_ms)
                if partition is None or not partition.live or message.offset <= partition.lane.through:
                    continue  # delivered before a rebalance that has moved the start
                gap = message.offset > partition.lane.through + 1
                if gap and not await self._explain_gap(partition, message.tp, message.offset):
                    continue
                lines, value = partition.lane.lines, message.value
                partition.feed(message.offset, appended_ms, value, message)
                # Or the bytes of a whole unacknowledged chunk would stay in memory.
                message.value = event.value = message.key = event.key = message.headers = None
                # A record that waits to be acknowledged, and a line whatever is in it, take memory, too.
                self._fed_bytes += _RECORD_BYTES + _LINE_BYTES * (partition.lane.lines - lines)
                if value:
                    self._fed_bytes += len(value)
                if self._fed_bytes > self.settings.pending_bytes // 2:
                    self._wake.set()
                if self._fed_bytes > self.settings.pending_bytes:
                    self._room.clear()
                    await self._room.wait()
        except Exception as error:
            self._fail(error)
            raise

    async def _explain_gap(self, partition: Partition, tp: TP, offset: int) -> bool:
        """Offsets were skipped: retention has overtaken the lane, unless they hold no records at all.

        False when the partition was revoked meanwhile.
        """
        earliest = (await self.app.consumer.earliest_offsets(tp))[tp]
        expected = partition.lane.through + 1
        if partition.live and earliest > expected:
            # What was fetched before is still at hand, though retention may have moved on behind it.
            earliest = min(earliest, offset)
            partition.lane.lose(earliest)
            self.records_expired_total += earliest - expected
            self.headless_chunks_total += int(partition.lane.headless)
            log.error(
                "partition %s: offsets %s to %s were deleted before they could be read; read faster (more "
                "workers), or keep the topic longer",
                partition.number,
                expected,
                earliest - 1,
            )
        return partition.live

    async def _flush_for_ever(self) -> None:
        last = 0.0
        while not self._stopping:
            wait_s = self.settings.flush_interval_s - (time.monotonic() - last)
            if wait_s > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), wait_s)
            self._wake.clear()
            last = time.monotonic()
            await self.flush()

    async def flush(self) -> None:
        """Store everything that was fed, say how far that is, then acknowledge whole chunks."""
        flushed = flush_lanes(self.partitions.values())
        self._fed_bytes = 0
        self._room.set()
        if flushed:
            self._judge(flushed)
            await deliver(flushed, self.writer.write, self._publish)
            self.events_total += sum(rows.events for _, rows in flushed)
            self.rejects_total += sum(rows.rejected for _, rows in flushed)
            counted = [partition.count(rows) for partition, rows in flushed]
            late, duplicate = map(sum, zip(*counted, strict=True))
            self.late_events_total += late
            self.duplicate_events_total += duplicate
        for partition in list(self.partitions.values()):
            await self._publish(partition, None)

    def _judge(self, flushed: list[tuple[Partition, LaneRows]]) -> None:
        """Stop rather than drain a topic that holds something else than events into the dead letters."""
        spoiled = self._verdict.judge((partition.number, rows) for partition, rows in flushed)
        if spoiled is not None:
            place = f"{self.settings.events_topic}/{spoiled.partition}/{spoiled.offset}/{spoiled.line}"
            raise TopicSpoiledError(
                f"{spoiled.rejects} of the last {spoiled.lines} lines of {self.settings.events_topic} are no "
                f"events ({', '.join(spoiled.reasons)}): stopped, and what was just read is neither stored "
                f"nor acknowledged. See what is sent: `gatewatch dead-letters show {place}`. When its "
                "sender is stopped, skip it: move the offsets of consumer group "
                f"{self.settings.consumer_group} behind it and start the workers again"
            )

    async def _publish(self, partition: Partition, rows: LaneRows | None) -> None:
        """Tell the closers how far a partition has come, when that can matter to them."""
        if not partition.live:
            return
        reached = partition.reach(rows, self.log_end(partition.number))
        if not reached:
            return
        reopened = rows.reopened if rows else []
        now = time.monotonic()
        window = reached // 1000 // 10
        before = self._published.get(partition.number)
        if (
            before is not None
            and not reopened
            and now - before[0] < _PROGRESS_EVERY_S
            and window == before[1]
        ):
            return
        self._published[partition.number] = (now, window)
        value = encode_progress(
            Progress(
                topic=self.settings.events_topic,
                incarnation=self._identity.incarnation,
                partition=partition.number,
                partitions=self._identity.partitions,
                flushed_offset=rows.through if rows else partition.flushed_offset,
                reached_ms=reached,
                reopened=reopened,
            )
        )
        sent = [
            await self.app.producer.send(PROGRESS_TOPIC, None, value, shard, None, None)
            for shard in range(PROGRESS_PARTITIONS)
        ]
        if reopened:
            await asyncio.gather(*sent)

    def log_end(self, number: int) -> tuple[int, int] | None:
        """The log's end as of the last fetch, and when that was (ms); None before the first one."""
        thread = getattr(self.app.consumer, "_thread", None)
        consumer = getattr(thread, "_consumer", None)
        if consumer is None:
            return None
        tp = TopicPartition(self.settings.events_topic, number)
        try:
            end, polled_ms = consumer.highwater(tp), consumer.last_poll_timestamp(tp)
        except (AssertionError, AttributeError, KeyError):
            return None  # between two assignments
        return None if end is None or polled_ms is None else (int(end), int(polled_ms))

    # -- stage 2: closers ----------------------------------------------------------------------

    async def _hear(self, stream: Any) -> None:
        """The agent of the progress topic."""
        try:
            async for event in stream.noack().events():
                message = event.message
                if message.partition not in self.closers.shards:
                    continue
                progress = decode_progress(message.value or b"")
                if progress is not None and progress.topic != self.settings.events_topic:
                    progress = None
                self.closers.hear(message.partition, progress, message)
        except Exception as error:
            self._fail(error)
            raise

    async def _close_for_ever(self) -> None:
        while not self._stopping:
            await asyncio.sleep(1.0)
            await self.close_windows()

    async def close_windows(self) -> None:
        """Merge windows that are complete, and those that got late events, into ``measures``."""
        self.windows_closed_total += await self.closers.close(self.writer.once)

    # -- running -------------------------------------------------------------------------------

    def _fail(self, error: BaseException) -> None:
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(error)

    async def _sample_for_ever(self) -> None:
        while not self._stopping:
            await asyncio.sleep(_SAMPLE_EVERY_S)
            rows = self.health.sample()
            if rows is not None:
                # Only a sample; the writer says that ClickHouse is down.
                with contextlib.suppress(SinkError):
                    await self.writer.once(partial(insert, f"{STORE}.workers", rows))
            with contextlib.suppress(SinkError):
                await self.sample_emitters()

    async def sample_emitters(self) -> None:
        """Read for ``/metrics`` what emitters' events miss, when it is time again.

        Raises
        ------
        SinkError
            What was read before stays.
        """
        began_s = time.monotonic()
        if began_s < self._emitters_due_s:
            return
        try:
            self.health.emitters = await self.writer.once(read_emitters)
        finally:
            ended_s = time.monotonic()
            pause_s = max(_EMITTERS_EVERY_S, (ended_s - began_s) / _EMITTERS_SHARE)
            self._emitters_due_s = ended_s + pause_s

    async def _identify_for_ever(self) -> None:
        """Notice a topic that was deleted and made again, which Faust reads on as if nothing had happened."""
        while not self._stopping:
            await asyncio.sleep(_IDENTIFY_EVERY_S)
            before = self.identity
            if before is None:
                continue
            now = await self._identify()
            if now is not None and self.identity is before and now.partitions != before.partitions:
                self.identity = now

    async def _identify(self) -> TopicIdentity | None:
        """What the topic is now; None when Kafka does not say.

        Raises
        ------
        WorkerError
            It is not the one that this worker reads.
        """
        before = self._identity
        try:
            now = await asyncio.to_thread(identify, self.settings.kafka, self.settings.events_topic)
        except TopicError:
            return None  # an outage; the consumer says so
        if now.incarnation != before.incarnation:
            raise WorkerError(
                f"topic {before.topic} was deleted and made again; start the worker again to read the new one"
            )
        return now

    async def _check_incarnation(self) -> None:
        """Make sure, before a record is taken, that the topic is still the one that this worker reads."""
        # Records that were on their way during a rebalance come in numbers.
        if time.monotonic() - self._checked_at_s > _CHECKED_FOR_S:
            while await self._identify() is None:
                await asyncio.sleep(_CHECKED_FOR_S)
            self._checked_at_s = time.monotonic()

    async def run(self) -> None:
        """Work until SIGTERM or SIGINT, then drain.

        Raises
        ------
        Exception
            What ended the worker.
        """
        loop = asyncio.get_running_loop()
        self._failure = loop.create_future()
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        await self.health.start(self.settings.metrics_host, self.settings.metrics_port)
        # Faust makes the directory within it, and no more.
        self.settings.data_dir.mkdir(parents=True, exist_ok=True)
        stop = asyncio.create_task(stopped.wait(), name="stop")
        crash = asyncio.create_task(self._app_crashed(), name="faust")
        # It returns when partitions are read: without Kafka or ClickHouse never.
        start = asyncio.create_task(self.app.start(), name="start")
        await self._first_of(start, stop, crash)
        if not start.done():
            log.info("stopping before anything was read")
            await self._leave()
            return
        tasks = [
            asyncio.create_task(work, name=name)
            for name, work in (
                ("flush", self._flush_for_ever()),
                ("close", self._close_for_ever()),
                ("sample", self._sample_for_ever()),
                ("identify", self._identify_for_ever()),
                ("prices", self._read_prices_for_ever()),
            )
        ]
        await self._first_of(*tasks, stop, crash)
        await self._drain(tasks)

    async def _first_of(self, *tasks: asyncio.Task[Any]) -> None:
        """Wait until one of them is done or the worker fails; an error of any is raised."""
        assert self._failure is not None
        waited: list[asyncio.Future[Any]] = [*tasks, self._failure]
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        for future in waited:
            if future.done() and (error := future.exception()) is not None:
                raise error

    async def _app_crashed(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            reason = self.app._crash_reason if self.app.crashed else None
            if self.app.crashed:
                raise reason or WorkerError("Faust has crashed")

    async def _drain(self, tasks: list[asyncio.Task[None]]) -> None:
        """Store what was read, commit, leave the group."""
        log.info("stopping: storing what was read")
        self._stopping = True
        self._wake.set()
        try:
            async with asyncio.timeout(_DRAIN_S):
                await tasks[0]
                await self.flush()
                await self.app.consumer.commit()
        except TimeoutError:
            log.warning(
                "ClickHouse did not take the last rows in time; they are read again at the next start"
            )
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._leave()

    async def _leave(self) -> None:
        """Leave the group, so that others need not wait for the session to run out."""
        # Not wait_for: Faust swallows a cancellation while it waits for what never comes.
        await asyncio.wait([asyncio.create_task(self.app.stop(), name="leave")], timeout=_LEAVE_S)
        await self.health.stop()


def _register_prices(sink: Sink) -> None:
    """Make this release's own list known, and mend what a process that died has left undone."""
    made = register_package(sink)
    if made is not None:
        log.info("prices: %s is version %s", made.source, made.version)
    fill_rows(sink)


def run(settings: Settings) -> None:
    """Run a worker until it is told to stop; ends the process."""
    # One core a worker: pyarrow's pool would only take turns with the event loop.
    pa.set_cpu_count(1)
    # pyarrow imports pandas with its first array, half a second: before records flow, not among them.
    pa.array([0])
    prepare()
    # Decoded events form no cycles; collecting the young generation for each thousand of them is waste.
    gc.set_threshold(50_000, 20, 20)
    # Nor is it worth looking again and again through what was imported.
    gc.freeze()
    # For the thread that talks to Kafka, too, which makes a loop of its own.
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(_run_to_its_end(Worker(settings)))


async def _run_to_its_end(worker: Worker) -> None:
    """Run a worker; the process ends here, inside of the event loop.

    Neither may this return, an exception leave the loop nor sys.exit be called: all of them cancel Faust's
    tasks and wait for them, and those wait for acknowledgements that never come. The writer's thread may
    be waiting for an engine that hangs; what it inserts is read again or is the same a second time.
    """
    try:
        await worker.run()
    except WorkerError as error:
        print(f"gatewatch worker: {error}", file=sys.stderr, flush=True)
        os._exit(STOPPED_FOR_GOOD if isinstance(error, TopicSpoiledError) else 1)
    except Exception:
        log.exception("the worker ends on an unexpected error; what is not acknowledged is read again")
        sys.stderr.flush()
        os._exit(1)
    sys.stderr.flush()
    os._exit(0)
