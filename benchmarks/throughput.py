"""Events from a real broker to rows and measures: `python -m benchmarks.throughput`.

For 1, 10, 100 and 500 events a record, each on a fresh stack:

- the events wait in the topic when the worker starts; from its being ready until its last row is
  stored is the time. The engine's processor time runs on until it has merged its parts;
- in the same run, on an engine of its own, the engine's own path with the same bytes
  (`benchmarks.engine_path`: ``naive``, and ``tuned`` as the honest upper neighbour);
- and a Faust agent on the same topic that does nothing, once with Faust as it comes and once with the
  worker's own consumer (`streams.consumer`).

``engine_ratio`` is our events per CPU second, worker and engine together, over the naive path's;
``tuned_ratio`` the same over the tuned path's. ``empty_agent_ratio`` is events per second over the
empty agent's, ``own_consumer_ratio`` over those of the one with our consumer. Rows are counted after
each run; a run that lost anything reports no speed and exits with 1. The machine is noisy: trust
ratios within one run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import psutil

from benchmarks.engine_path import INPUT, statements
from benchmarks.workload import calls, records
from gatewatch.events import EVENTS_TOPIC
from sinks.clickhouse import Sink
from streams.process import free_port
from streams.stack import Stack

__all__ = ["LostError", "main", "measure_worker"]

EVENTS: Final = {1: 60_000, 10: 400_000, 100: 1_000_000, 500: 1_000_000}
_BLOCK_EVENTS: Final = 65_536
"""Events of one JSONEachRow insert: the block size of ClickHouse's Kafka engine."""
_WAIT_S: Final = 300.0


class LostError(Exception):
    """Not every event that was sent is stored, or some are stored twice."""


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _settled_cpu_s(pid: int, sink: Sink) -> float:
    """The engine's processor time once nothing is being merged any more."""
    quiet = 0
    deadline = time.monotonic() + _WAIT_S
    while quiet < 3 and time.monotonic() < deadline:
        time.sleep(0.5)
        merging = sink.rows("SELECT count() FROM system.merges")[0][0]
        quiet = 0 if merging else quiet + 1
    return _cpu_s(pid)


def _produce(bootstrap: str, topic: str, values: Iterator[bytes]) -> int:
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=20, batch_size=1 << 18)
    sent = 0
    failed: list[BaseException] = []
    for value in values:
        producer.send(topic, value, partition=sent % 4).add_errback(failed.append)
        sent += 1
    producer.flush()
    producer.close()
    if failed:
        raise LostError(f"{len(failed)} records did not reach the broker: {failed[0]!r}")
    return sent


def _metric(url: str, name: str) -> float:
    with urlopen(f"{url}/metrics", timeout=5) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
    return 0.0


def measure_worker(stack: Stack, events: int, per_record: int) -> dict[str, Any]:
    """Events of the topic through a worker into the engine, on a stack without workers."""
    engine = stack.pids["engine"]
    sink = Sink(stack.engine_url, "writer", stack.writer_password)
    now_ms = int(time.time() * 1000)
    _produce(stack.bootstrap, EVENTS_TOPIC, records(calls(events, now_ms), per_record))
    engine_before = _settled_cpu_s(engine, sink)
    name = f"worker-{stack.add_worker()}"
    worker, url = stack.pids[name], stack.metrics_urls[name]
    # What was stored before the worker was seen to be ready is left out of its rate.
    began, worker_before, already = time.monotonic(), _cpu_s(worker), _metric(url, "gatewatch_events_total")
    peak = 0
    while _metric(url, "gatewatch_events_total") < events:
        if time.monotonic() - began > _WAIT_S:
            raise LostError(
                f"only {_metric(url, 'gatewatch_events_total'):.0f} of {events} events were stored"
            )
        peak = max(peak, psutil.Process(worker).memory_info().rss)
        time.sleep(0.2)  # each look costs the worker a millisecond or two
    seconds = time.monotonic() - began
    worker_cpu = _cpu_s(worker) - worker_before
    engine_cpu = _settled_cpu_s(engine, sink) - engine_before
    measured = events - already
    _check(sink, events)
    return {
        "events_per_s": round(measured / seconds),
        "events_per_cpu_s": round(1 / (worker_cpu / measured + engine_cpu / events)),
        "worker_events_per_cpu_s": round(measured / worker_cpu),
        "worker_us": round(worker_cpu / measured * 1e6, 2),
        "engine_us": round(engine_cpu / events * 1e6, 2),
        "worker_rss_mib": peak >> 20,
        "engine_rss_mib": psutil.Process(engine).memory_info().rss >> 20,
    }


def _check(sink: Sink, events: int) -> None:
    stored = sink.rows("SELECT count(), uniqExact(call_id) FROM gatewatch.calls")[0]
    delivered = sink.rows("SELECT sum(events), sum(duplicates), sum(rejects) FROM gatewatch.delivery")[0]
    measured = sink.rows(
        "SELECT sum(n) FROM gatewatch.measures WHERE signal = 'performance_calls_count' AND cut = 'gateway'"
    )[0][0]
    lost = sink.rows("SELECT sum(gaps), sum(duplicates), sum(lost) FROM gatewatch.emitters")[0]
    found = (*stored, *delivered, measured, *lost)
    if found != (events, events, events, 0, 0, events, 0, 0, 0):
        raise LostError(f"of {events} events the views say {found}")


def _measure_engine(path: str, events: int) -> float:
    """Events per CPU second of the engine's own path, merges included."""
    with tempfile.TemporaryDirectory() as data:
        port = free_port()
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "sinks.engine", "--data", data, "--port", str(port)],
            stdout=subprocess.DEVNULL,
            cwd=Path(__file__).parents[1],
        )
        try:
            sink = _connect(port, Path(data))
            for statement in statements(path):
                sink.command(statement)
            before = _settled_cpu_s(process.pid, sink)
            now_ms = int(time.time() * 1000)
            for body in records(calls(events, now_ms), _BLOCK_EVENTS):
                sink.insert_raw(INPUT[path], body, "JSONEachRow", input_format_skip_unknown_fields=1)
            used = _settled_cpu_s(process.pid, sink) - before
            stored = sink.rows("SELECT count() FROM bench.calls")[0][0]
            if stored != events:
                raise LostError(f"the engine's {path} path has {stored} of {events} rows")
            return events / used
        finally:
            process.terminate()
            process.wait()


def _connect(port: int, data: Path) -> Sink:
    deadline = time.monotonic() + 30
    while True:
        try:
            return Sink(f"http://127.0.0.1:{port}", "writer", (data / "engine.token").read_text().strip())
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _measure_empty_agent(stack: Stack, events: int, per_record: int, *options: str) -> float:
    """Events per second of a Faust agent that does nothing, on the same topic."""
    count = -(-events // per_record)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.empty_agent", stack.bootstrap, EVENTS_TOPIC, str(count), *options],
        capture_output=True,
        text=True,
        timeout=_WAIT_S,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    at = {line.split()[0]: float(line.split()[1]) for line in done.stdout.splitlines()}
    return events / (at["last"] - at["first"])


def measure(per_record: int, events: int) -> dict[str, Any]:
    """All figures for one envelope."""
    with tempfile.TemporaryDirectory() as data, Stack(Path(data), workers=0) as stack:
        ours = measure_worker(stack, events, per_record)
        for name in [name for name in stack.pids if name.startswith("worker")]:
            stack.stop_worker(int(name.removeprefix("worker-")))
        empty = _measure_empty_agent(stack, events, per_record)
        own_consumer = _measure_empty_agent(stack, events, per_record, "--own-consumer")
    naive = _measure_engine("naive", min(events, EVENTS[100]))
    tuned = _measure_engine("tuned", min(events, EVENTS[100]))
    return {
        **ours,
        "engine_ratio": round(ours["events_per_cpu_s"] / naive, 2),
        "tuned_ratio": round(ours["events_per_cpu_s"] / tuned, 2),
        "empty_agent_ratio": round(ours["events_per_s"] / empty, 2),
        "own_consumer_ratio": round(ours["events_per_s"] / own_consumer, 2),
        "naive_events_per_cpu_s": round(naive),
        "tuned_events_per_cpu_s": round(tuned),
        "empty_agent_events_per_s": round(empty),
        "own_consumer_events_per_s": round(own_consumer),
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; 0 when nothing was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput")
    parser.add_argument("--envelopes", type=int, nargs="+", default=list(EVENTS), help="events a record")
    parser.add_argument("--share", type=float, default=1.0, help="of the usual number of events")
    options = parser.parse_args(arguments)
    by_envelope = {}
    try:
        for per_record in options.envelopes:
            events = int(EVENTS.get(per_record, 400_000) * options.share)
            by_envelope[str(per_record)] = figures = measure(per_record, events)
            print(f"{per_record} events a record: {json.dumps(figures)}", flush=True)
    except LostError as error:
        print(f"no speed is reported: {error}", file=sys.stderr)
        return 1
    rss = max(figures["worker_rss_mib"] for figures in by_envelope.values())
    print(json.dumps({"by_envelope": by_envelope, "rss_mib": rss}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
