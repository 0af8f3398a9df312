"""A small world around the real lanes, writer, closers and sink, in which everything can go wrong.

Simulated are Kafka (logs, committed offsets, the progress topic), the passing of time, the workers'
processes and the connection to ClickHouse. Real is what delivery rests on: :class:`signals.lane.Lane`,
:class:`streams.partition.Partition` and ``deliver``, :class:`streams.writer.Writer`,
:class:`streams.closer.Closers`, ``streams.start``, ``streams.source``, ``sinks.row`` and the engine with
its tables, closing statement and views. Coroutines are driven by hand, so a flush can stop, crash or
come too late between any two of its statements.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, TypeVar, cast

import pyarrow as pa
from msgspec import Struct

from gatewatch.events import Call, Event, Feedback, Request, Response, encode
from signals.lane import Lane, LaneRows, Rules
from signals.signal import SHARDS
from sinks.clickhouse import Sink, SinkError
from sinks.closing import checkpoints
from sinks.schema import STORE, TABLES
from streams.closer import Closers
from streams.partition import Partition, deliver, flush_lanes
from streams.progress import Progress
from streams.source import SourceError, TopicIdentity, known_sources, register, source_id
from streams.start import LogTruncatedError, start_offset
from streams.writer import Writer
from tests.event import T0_MS
from tests.streams.delivery_oracle import Mismatch

T = TypeVar("T")
Flow: TypeAlias = Coroutine[Any, None, None]

CHUNK_RECORDS: Final = 4
GRACE_MS: Final = 60_000
MAX_AGE_MS: Final = 600_000
SERIES_LIMIT: Final = (2, 3)
"""By code: a deploy changes which series a chunk keeps apart, so its rows get other keys."""
TOPIC: Final = "events"
GATEWAYS: Final = ("eu-1", "us-1", "ap-1")
MODELS: Final = ("gpt-4o", "claude", "llama", "gemini")
LATENESS_MS: Final = (0, 0, 1_000, 30_000, 55_000, 90_000, 590_000, 700_000)
TOTAL_MS: Final = (3.0, 250.0, 2_500.123)
_FOR_EVER: Final = 500


# -- steps ------------------------------------------------------------------------------------------


class Line(Struct, frozen=True):
    """One line that is produced. Numbers choose among what there is, modulo its count."""

    kind: Literal["call", "part", "again", "feedback", "bad"]
    gateway: int = 0
    model: int = 0
    lateness: int = 0
    emitter: int = 0
    earlier: int = 0


class Produce(Struct, frozen=True):
    """Records appended to a partition, one for each inner list."""

    partition: int
    records: tuple[tuple[Line, ...], ...]


class Pass(Struct, frozen=True):
    """Time passes, and lanes that stand at their logs' ends say so, as they do every few seconds."""

    ms: int


class Read(Struct, frozen=True):
    """A worker is handed the next records of its partitions."""

    worker: int
    records: int


class Flush(Struct, frozen=True):
    """A worker begins to flush, or goes on with it; ``steps`` of it are done, or all."""

    worker: int
    steps: int | None = None
    faults: tuple[str, ...] = ()
    """For each insert: ``ok``, ``refused`` or ``lost``, which is stored and not answered."""
    committed: bool = False
    """Whether Faust's timer commits then."""


class Commit(Struct, frozen=True):
    """What a worker has acknowledged is committed."""

    worker: int


class Close(Struct, frozen=True):
    """The closers hear of progress and close what is due."""

    hear: int = 100
    fault: str = ""
    """``refused`` and ``lost`` as above; ``torn``: the process dies after its first statement, which
    should be the windows, before their checkpoint; ``unacknowledged``: after both; ``late``: it reads
    now, is replaced, and writes later."""


class LateClose(Struct, frozen=True):
    """A closing that was late is written now."""


class Crash(Struct, frozen=True):
    """A worker dies and another one takes its place."""

    worker: int
    committed: bool = False
    """Whether what it had acknowledged was committed before."""


class Die(Struct, frozen=True):
    """A worker reads what there is and dies in the middle of the flush."""

    worker: int
    steps: int
    committed: bool


class Expel(Struct, frozen=True):
    """A worker is taken for dead, and replaced, and still works: a zombie."""

    worker: int


class Zombie(Struct, frozen=True):
    """A zombie reads and flushes."""

    zombie: int
    records: int
    steps: int | None


class Rebalance(Struct, frozen=True):
    """Partitions move; the group has ``workers`` members then."""

    workers: int


class Deploy(Struct, frozen=True):
    """All workers are replaced by ones with changed code."""


class ChunkSize(Struct, frozen=True):
    """Somebody starts the workers with another chunk size."""


class Rewind(Struct, frozen=True):
    """An operator sets a partition's committed offset back."""

    partition: int
    records: int


class Retention(Struct, frozen=True):
    """While the workers are down, the log's start moves past what has been stored."""

    partition: int
    kept: int


class Recreate(Struct, frozen=True):
    """The topic is deleted, when all was read, and made again; committed offsets stay."""


class AddPartition(Struct, frozen=True):
    """The topic grows; workers notice when they are assigned partitions the next time."""


Step: TypeAlias = (
    Produce | Pass | Read | Flush | Commit | Close | LateClose | Crash | Expel | Zombie
    | Die | Rebalance | Deploy | ChunkSize | Rewind | Retention | Recreate | AddPartition
)  # fmt: skip


# -- the store --------------------------------------------------------------------------------------


class Store:
    """The engine. Inserted blocks are gathered until somebody reads, since an insert takes 8 ms."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self._gathered: dict[str, list[pa.Table]] = {}
        self._touched: set[str] = set()
        self._known: dict[int, int] = {}

    def insert(self, table: str, rows: pa.Table) -> None:
        self._gathered.setdefault(table, []).append(rows)

    def settle(self) -> None:
        """Give the engine what was inserted, table by table in order."""
        for table, blocks in self._gathered.items():
            self.sink.insert(table, pa.concat_tables(map(_plain, blocks), promote_options="permissive"))
            self._touched.add(table)
        self._gathered.clear()

    def command(self, sql: str, parameters: Mapping[str, Any]) -> None:
        self.settle()
        self.sink.command(sql, parameters)
        self._touched.update(name for name in _QUALIFIED if f"INSERT INTO {name}" in sql)

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Sequence[Any]]:
        self.settle()
        return self.sink.rows(sql, parameters)

    def table(self, sql: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        self.settle()
        return self.sink.table(sql, parameters)

    def clear(self) -> None:
        """Empty the tables that were written."""
        self._gathered.clear()
        for table in self._touched:
            self.sink.command(f"TRUNCATE TABLE {table}")
        self._touched.clear()


_QUALIFIED: Final = [table.qualified for table in TABLES]


def _plain(block: pa.Table) -> pa.Table:
    """A block whose dictionaries are plain strings, so that it can be put behind another one."""
    fields = [
        pa.field(field.name, field.type.value_type if pa.types.is_dictionary(field.type) else field.type)
        for field in block.schema
    ]
    return block.cast(pa.schema(fields))


class Connection:
    """A worker's connection: where inserts fail, and closings come late."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.faults: list[str] = []
        self.close_fault = ""
        self.late: list[pa.Table] = []

    def insert(self, table: str, rows: pa.Table) -> None:
        fault = self.faults.pop(0) if self.faults else "ok"
        if fault != "refused":
            self._store.insert(table, rows)
        if fault != "ok":
            raise SinkError(f"insert of {rows.num_rows} rows into {table} failed: {fault}")

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Sequence[Any]]:
        return self._store.rows(sql, parameters)

    def command(self, sql: str, parameters: Mapping[str, Any]) -> None:
        fault, target = self.close_fault, f"INSERT INTO {STORE}.measures"
        if fault == "refused":
            self.close_fault = ""
            raise SinkError("statement failed: refused")
        if fault == "late" and sql.startswith(target):
            self.late.append(self._store.table(sql.removeprefix(target), parameters))
            raise Died
        self._store.command(sql, parameters)
        if fault == "torn":
            raise Died
        if fault == "lost":
            self.close_fault = ""
            raise SinkError("statement failed: no answer")

    def close(self) -> None:
        """Nothing is held."""


class Died(BaseException):
    """The process is gone."""


# -- workers ----------------------------------------------------------------------------------------


@types.coroutine
def suspend() -> Generator[None, None, None]:
    """A point where a flow can be left, or end."""
    yield


def run(flow: Flow, steps: int | None = None) -> bool:
    """Go on with a flow; whether it has ended."""
    for _ in range(_FOR_EVER if steps is None else steps):
        try:
            flow.send(None)
        except StopIteration:
            return True
    assert steps is not None, "a flow does not end"
    return False


class ModelWriter(Writer):
    """The real writer without its thread and its pauses."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(lambda: cast(Sink, connection))

    async def _in_thread(self, run: Callable[[], T]) -> T:
        await suspend()
        return run()

    async def _back_off(self, most_s: float) -> None:
        await suspend()


class Worker:
    """One process: what ``streams.worker`` does, with the same parts."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.code = world.code
        self.rules = Rules(
            chunk_records=world.chunk_records,
            grace_ms=GRACE_MS,
            max_age_ms=MAX_AGE_MS,
            series_limit=SERIES_LIMIT[world.code],
        )
        self.connection = Connection(world.store)
        self.writer = ModelWriter(self.connection)
        self.member = True
        self.partitions: dict[int, Partition] = {}
        self.position: dict[int, int] = {}
        self.acknowledged: dict[int, int] = {}
        self.closers = Closers([], {}, GRACE_MS, self._acknowledge_progress)
        self.flows: list[Flow] = []
        self.identity = world.identity()
        self.incarnation = world.incarnation

    def begin(self, numbers: list[int], closes: bool) -> None:
        """Partitions are assigned."""
        world = self.world
        self.forget()
        self.identity = world.identity()
        sink = cast(Sink, self.connection)
        known = known_sources(sink, self.identity, numbers, self.rules.chunk_records)
        closed = checkpoints(sink)
        for number in numbers:
            start = start_offset(
                committed=world.committed.get(number),
                earliest=world.earliest[number],
                end=len(world.log[number]),
                known=known[number],
                chunk_records=self.rules.chunk_records,
            )
            lane = world.make_lane(
                self.identity.source(number), start, self.rules, max(closed.values(), default=0)
            )
            first = start - start % CHUNK_RECORDS
            if first < world.earliest[number]:
                world.headless.add((lane.source, first))
            self.position[number] = start
            self.partitions[number] = Partition(number, lane, self._acknowledge)
        fresh = [number for number in numbers if not known[number]]
        world.committed.update({number: self.position[number] for number in fresh})
        register(sink, self.identity, fresh, self.rules.chunk_records)
        shards = range(SHARDS) if closes else []
        self.closers = Closers(shards, closed, GRACE_MS, self._acknowledge_progress)

    def forget(self) -> None:
        """Partitions are revoked; a flush that is under way goes on."""
        for partition in self.partitions.values():
            partition.live = False
        self.closers.live = False
        self.closers = Closers([], {}, GRACE_MS, self._acknowledge_progress)
        self.partitions = {}
        self.position = {}
        self.acknowledged = {}

    def read(self, records: int) -> None:
        if self.incarnation != self.world.incarnation:
            return
        for number, partition in self.partitions.items():
            log = self.world.log[number]
            # A zombie reads what retention has left, and a hole would end it.
            if self.position[number] < self.world.earliest[number]:
                continue
            for offset in range(self.position[number], min(len(log), self.position[number] + records)):
                appended_ms, value = log[offset]
                partition.feed(offset, self.world.time_of(appended_ms), value, (number, offset))
                self.position[number] = offset + 1

    def flush(self, steps: int | None, faults: Sequence[str]) -> None:
        if not self.flows or self.world.flushes_overlap:
            self.flows.append(self._flush())
        self.connection.faults = list(faults)
        flow = self.flows[-1]
        if run(flow, steps):
            self.flows.remove(flow)

    def idle(self) -> None:
        """Say how far lanes have come; while a flush is under way, nothing is said."""
        if not self.flows:
            run(self._say())

    async def _flush(self) -> None:
        flushed = flush_lanes(self.partitions.values())
        await deliver(flushed, self._write, self._publish)
        await self._say()

    async def _say(self) -> None:
        for partition in list(self.partitions.values()):
            await self._publish(partition, None)

    async def _write(self, flushed: Sequence[LaneRows]) -> None:
        await self.writer.write(flushed)
        for rows in flushed:
            self.world.stored[rows.source] = max(self.world.stored.get(rows.source, -1), rows.through)

    async def _publish(self, partition: Partition, rows: LaneRows | None) -> None:
        await suspend()
        if not partition.live or self.incarnation != self.world.incarnation:
            return
        end = len(self.world.log[partition.number])
        reached = partition.reach(rows, (end, self.world.now_ms))
        if reached:
            self.world.progress.append(
                Progress(
                    topic=TOPIC,
                    incarnation=self.identity.incarnation,
                    partition=partition.number,
                    partitions=self.identity.partitions,
                    flushed_offset=rows.through if rows else partition.flushed_offset,
                    reached_ms=reached,
                    reopened=rows.reopened if rows else [],
                )
            )

    def _acknowledge(self, record: tuple[int, int]) -> None:
        number, offset = record
        # Faust can commit past a record that is not acknowledged (faust#606): the worst case is the model.
        self.acknowledged[number] = max(self.acknowledged.get(number, 0), offset + 1)

    def commit(self) -> None:
        if self.member and self.incarnation == self.world.incarnation:
            self.world.committed.update(self.acknowledged)
            self.acknowledged = {}

    def close(self, hear: int, fault: str) -> None:
        world = self.world
        if not self.closers.shards:
            return
        until = min(len(world.progress), world.progress_position + hear)
        if world.hearing_is_done:
            world.progress_committed = until
        for index in range(world.progress_position, until):
            for shard in range(SHARDS):
                self.closers.hear(shard, world.progress[index], index)
        world.progress_position = until
        self.connection.close_fault = fault
        try:
            run(self._close())
            if fault != "unacknowledged":
                world.progress_committed = max(world.progress_committed, self.progress_done)
        finally:
            self.connection.close_fault = ""

    progress_done = 0

    async def _close(self) -> None:
        await self.closers.close(self.writer.once)

    def _acknowledge_progress(self, index: int) -> None:
        self.progress_done = max(self.progress_done, index + 1)


class World:
    """Kafka, time and the processes; ``step`` does one thing, ``finish`` brings everything to its end."""

    make_lane: Callable[[int, int, Rules, int], Lane] = staticmethod(Lane)
    flushes_overlap = False
    hearing_is_done = False

    def __init__(self, sink: Sink) -> None:
        self.store = Store(sink)
        self.now_ms = T0_MS
        self.code = 0
        self.codes = {0}
        self.chunk_records = CHUNK_RECORDS
        self.incarnation = 0
        self.log: list[list[tuple[int, bytes]]] = [[], []]
        self.earliest = [0, 0]
        self.committed: dict[int, int] = {}
        self.progress: list[Progress] = []
        self.progress_position = 0
        self.progress_committed = 0
        self.history: dict[int, list[tuple[int, bytes]]] = {}
        """Everything that was ever appended, by source."""
        self.stored: dict[int, int] = {}
        self.headless: set[tuple[int, int]] = set()
        self.late: list[pa.Table] = []
        self.zombies: list[Worker] = []
        self._lines: list[bytes] = []
        self._open: list[tuple[str, int]] = []
        self._seq = [0, 0]
        self._calls = 0
        self._turn = 0
        self.workers = [Worker(self)]
        self._assign()

    def identity(self) -> TopicIdentity:
        return TopicIdentity("cluster", TOPIC, f"incarnation-{self.incarnation}", len(self.log))

    def time_of(self, appended_ms: int) -> int:
        """The time that a lane holds events against: the record's own."""
        return appended_ms

    def step(self, step: Step) -> None:
        """Do one thing; what does not apply does nothing."""
        match step:
            case Produce():
                self._produce(step)
            case Pass():
                self.now_ms += step.ms
                for worker in self.workers:
                    worker.idle()
            case Read():
                self._worker(step.worker).read(step.records)
            case Flush():
                worker = self._worker(step.worker)
                worker.flush(step.steps, step.faults)
                if step.committed:
                    worker.commit()
            case Commit():
                self._worker(step.worker).commit()
            case Close():
                self._close(step)
            case LateClose():
                self._write_late()
            case Crash():
                worker = self._worker(step.worker)
                if step.committed:
                    worker.commit()
                self._replace(worker)
            case Die():
                worker = self._worker(step.worker)
                worker.read(_FOR_EVER)
                worker.flush(step.steps, ())
                if step.committed:
                    worker.commit()
                self._replace(worker)
            case Expel():
                worker = self._worker(step.worker)
                worker.member = False
                self.zombies.append(worker)
                self._replace(worker)
            case Zombie():
                if self.zombies:
                    zombie = self.zombies[step.zombie % len(self.zombies)]
                    zombie.read(step.records)
                    zombie.flush(step.steps, ())
            case Rebalance():
                self._turn += 1
                while len(self.workers) < step.workers:
                    self.workers.append(Worker(self))
                for worker in self.workers[step.workers :]:
                    worker.forget()
                    worker.member = False
                    self.zombies.append(worker)  # it leaves; its flush under way may still end
                del self.workers[step.workers :]
                self._assign()
            case Deploy():
                # A closing is one statement in the engine: it does not outlive a deploy.
                self._write_late()
                self.code = 1 - self.code
                self.codes.add(self.code)
                self._restart()
            case ChunkSize():
                self.chunk_records = CHUNK_RECORDS - 1
                self._restart()
            case Rewind():
                number = step.partition % len(self.log)
                if number in self.committed:
                    back = self.committed[number] - step.records
                    self.committed[number] = max(back, self.earliest[number])
                    self._restart()
            case Retention():
                self._retain(step)
            case Recreate():
                self._drain()
                self.incarnation += 1
                self.log = [[] for _ in self.log]
                self.earliest = [0 for _ in self.log]
                self._restart()
            case AddPartition():
                if len(self.log) < 4:
                    self.log.append([])
                    self.earliest.append(0)

    def _worker(self, index: int) -> Worker:
        return self.workers[index % len(self.workers)]

    def _assign(self) -> None:
        members = len(self.workers)
        try:
            for index, worker in enumerate(self.workers):
                mine = [p for p in range(len(self.log)) if (p + self._turn) % members == index]
                worker.begin(mine, self._turn % members == index)
        except LogTruncatedError as error:
            raise Mismatch(f"a worker does not start: {error}") from error
        except SourceError:
            # The workers refuse to start; whoever runs them sets it right.
            self.chunk_records = CHUNK_RECORDS
            self.workers = [Worker(self)]
            self._assign()
        self.progress_position = self.progress_committed

    def _replace(self, worker: Worker) -> None:
        self.workers[self.workers.index(worker)] = Worker(self)
        self._assign()

    def _restart(self) -> None:
        self.workers = [Worker(self) for _ in self.workers]
        self._assign()

    # -- input -------------------------------------------------------------------------------------

    def _produce(self, step: Produce) -> None:
        number = step.partition % len(self.log)
        source = source_id("cluster", TOPIC, f"incarnation-{self.incarnation}", number)
        for lines in step.records:
            value = b"\n".join(self._line(line) for line in lines)
            self.log[number].append((self.now_ms, value))
            self.history.setdefault(source, []).append((self.now_ms, value))
            self.now_ms += 7

    def _line(self, line: Line) -> bytes:
        if line.kind == "bad":
            return (b"{", b'{"kind":"call"}', b"\xff")[line.earlier % 3]
        if line.kind == "again" and self._lines:
            return self._lines[-1 - line.earlier % min(len(self._lines), 12)]
        at_ms = self.now_ms - LATENESS_MS[line.lateness % len(LATENESS_MS)]
        emitter = line.emitter % 2
        common: dict[str, Any] = {
            "at_ms": at_ms,
            "gateway": GATEWAYS[line.gateway % len(GATEWAYS)],
            "emitter_id": f"emitter-{emitter}",
            "seq": self._seq[emitter],
        }
        self._seq[emitter] += 1
        made = encode(self._event(line, at_ms, common))
        self._lines.append(made)
        return made

    def _event(self, line: Line, at_ms: int, common: dict[str, Any]) -> Event:
        if line.kind == "feedback":
            return Feedback(**common, call_id="c", name="thumbs", score=float(line.model))
        call = {"provider": "openai", "model": MODELS[line.model % len(MODELS)], "tenant": "acme"}
        if line.kind == "part" and self._open:
            call_id, started_at_ms = self._open.pop(line.earlier % len(self._open))
            return Response(
                **common | call,
                call_id=call_id,
                started_at_ms=started_at_ms,
                output_tokens=10 + line.model,
                error_class="overload" if line.earlier % 2 else None,
                total_ms=TOTAL_MS[line.model % 3],
            )
        self._calls += 1
        call_id = f"call-{self._calls}"
        if line.kind == "part":
            self._open.append((call_id, at_ms))
            return Request(**common | call, call_id=call_id, started_at_ms=at_ms, message_count=line.model)
        return Call(
            **common | call,
            call_id=call_id,
            started_at_ms=at_ms,
            input_tokens=16_777_217 + line.model,
            reported_cost_usd=0.25 * line.model if line.earlier % 3 else None,
            total_ms=TOTAL_MS[line.earlier % 3],
            error_class="timeout" if line.earlier % 4 == 3 else None,
        )

    # -- what goes wrong ---------------------------------------------------------------------------

    def _closer(self) -> Worker:
        return next(worker for worker in self.workers if worker.closers.shards)

    def _close(self, step: Close) -> None:
        worker = self._closer()
        try:
            worker.close(step.hear, step.fault)
        except Died:
            self.late += worker.connection.late
            self._replace(worker)
            return
        if step.fault == "unacknowledged":
            self._replace(worker)

    def _write_late(self) -> None:
        for table in self.late:
            if table.num_rows:
                self.store.insert(f"{STORE}.measures", table)
        self.late.clear()

    def _retain(self, step: Retention) -> None:
        number = step.partition % len(self.log)
        stored = self.stored.get(self.identity().source(number), -1)
        # Retention that reaches what nobody has stored loses it: that is no history to be exact about.
        start = max(self.earliest[number], min(stored + 1, len(self.log[number])) - step.kept)
        if start > self.earliest[number]:
            self.earliest[number] = start
            self.zombies = [zombie for zombie in self.zombies if number not in zombie.partitions]
            self._restart()

    # -- the end -----------------------------------------------------------------------------------

    def finish(self) -> None:
        """Everything is read and stored, what is late comes, and windows close."""
        half = len(self.zombies) // 2
        self._wake(self.zombies[:half])
        self._drain()
        self._wake(self.zombies[half:])
        self._write_late()
        self.now_ms += 60_000
        self._drain()
        self.store.settle()

    def _wake(self, workers: list[Worker]) -> None:
        """Let flushes that are under way end."""
        for worker in workers:
            for flow in worker.flows:
                run(flow)
            worker.flows.clear()

    def _drain(self) -> None:
        if any(worker.identity.partitions < len(self.log) for worker in self.workers):
            self._assign()
        self._wake(self.workers)
        for worker in self.workers:
            worker.read(_FOR_EVER)
            worker.flush(None, ())
            worker.flush(None, ())
            worker.commit()
        self._closer().close(_FOR_EVER, "")
