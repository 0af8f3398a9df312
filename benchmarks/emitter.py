"""What the emitter costs a gateway: `python -m benchmarks.emitter`.

Three broker states, ``up``, ``down`` (stopped under a running emitter, then started again)
and ``slow`` (200 ms each way, 2 MB/s, through a proxy), each emitted to in two ways:

* ``paced``: as a gateway emits, at a fixed rate. Open loop: the next call is due by the clock,
  not by the end of the last one. Each parses a provider's answer, makes its event and emits it;
  between calls the thread sleeps.
* ``flat_out``: as fast as one thread can call, so that the background threads compete for the
  interpreter lock all the time and, with the broker down or slow, the queue overflows.

Timed is the call of ``emit()`` alone, every one, with ``perf_counter_ns``, whose own cost is
left in. ``emit_p50_us`` and ``emit_p99_us`` are the worst of the six. For comparison, and in
no other number, ``idle`` times a function that does nothing and an ``emit()`` straight out of
a sleep: what cold caches on this machine cost either.

``events_per_s`` is from the first ``emit()`` to the last acknowledgement, one process, records
of 100, without drops.

After each run the topic is read back: what arrived, each sequence number once, plus what the
emitter says it dropped must be what was emitted. If it is not, no speed is reported, and the
exit code is 1. The last line of output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from gatewatch import Call, Emitter
from streams.broker import Broker

PARTITIONS: Final = 4


class _Numbered(msgspec.Struct):
    """Of an event, what proves its arrival."""

    emitter_id: str
    seq: int


class LostError(Exception):
    """What arrived and what was counted as dropped is not what was emitted."""


def call_event() -> Call:
    """An event of usual size, some 550 bytes on the wire."""
    return Call(
        at_ms=1_760_000_000_000,
        gateway="eu-1",
        environment="production",
        call_id="call-0123456789abcdef",
        started_at_ms=1_760_000_000_000,
        provider="openai",
        model="gpt-4o",
        tenant="acme",
        team="search",
        key_alias="search-prod",
        user_hash="5f2b8c1d9e3a4f60",
        stream=True,
        stream_end="complete",
        status_code=200,
        total_ms=2310.25,
        ttft_ms=312.5,
        tpot_ms=11.04,
        max_gap_ms=48.75,
        finish_reason="stop",
        response_model="gpt-4o-2024-11-20",
        response_id="chatcmpl-0123456789abcdef",
        usage_source="provider",
        input_tokens=1832,
        cache_read_tokens=1024,
        output_tokens=181,
    )


def create_topic(bootstrap: str, topic: str) -> None:
    """A fresh topic, so that each run counts its own rows."""
    from kafka.admin import KafkaAdminClient

    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        admin.create_topics({topic: {"num_partitions": PARTITIONS, "replication_factor": 1}})
    finally:
        admin.close()


def arrived(bootstrap: str, topic: str, emitter_id: str) -> tuple[int, int]:
    """Events of an emitter in a topic, and how many different sequence numbers they have."""
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap, enable_auto_commit=False, consumer_timeout_ms=30_000
    )
    partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    decoder = msgspec.json.Decoder(_Numbered)
    total = 0
    seen: set[int] = set()
    try:
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        left = {partition for partition, end in ends.items() if end > 0}
        for record in consumer if left else ():
            for event in decoder.decode_lines(record.value):
                if event.emitter_id == emitter_id:
                    total += 1
                    seen.add(event.seq)
            partition = TopicPartition(topic, record.partition)
            if record.offset + 1 >= ends[partition]:
                left.discard(partition)
                if not left:
                    break
    finally:
        consumer.close()
    return total, len(seen)


def prove(bootstrap: str, topic: str, emitter: Emitter) -> dict[str, Any]:
    """Compare the topic with the emitter's counts.

    Raises
    ------
    LostError
        They disagree.
    """
    total, different = arrived(bootstrap, topic, emitter.emitter_id)
    dropped = emitter.dropped_by_reason
    counts = {"emitted": emitter.emitted_total, "arrived": total, "dropped": emitter.dropped_total}
    if total != different or total + counts["dropped"] != counts["emitted"]:
        raise LostError(f"{counts}, {different} different sequence numbers, dropped by reason {dropped}")
    return counts


def timings(samples_ns: array[int]) -> dict[str, float]:
    """Percentiles in microseconds."""
    ordered = sorted(samples_ns)
    last = len(ordered) - 1

    def percentile(share: float) -> float:
        return round(ordered[round(last * share)] / 1_000, 2)

    return {
        "p50_us": percentile(0.5),
        "p99_us": percentile(0.99),
        "p999_us": percentile(0.999),
        "max_us": percentile(1.0),
    }


def answer() -> bytes:
    """A provider's answer to a chat call, some 4 KB."""
    return json.dumps(
        {
            "id": "chatcmpl-0123456789abcdef",
            "object": "chat.completion",
            "created": 1_760_000_000,
            "model": "gpt-4o-2024-11-20",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "All happy families are alike. " * 120},
                    "finish_reason": "stop",
                }
            ],
            "usage": {
                "prompt_tokens": 1832,
                "completion_tokens": 181,
                "total_tokens": 2013,
                "prompt_tokens_details": {"cached_tokens": 1024, "audio_tokens": 0},
            },
            "service_tier": "default",
        }
    ).encode()


def emit_paced(emit: Callable[[Call], None], rate_per_s: float, seconds: float, *, work: bool) -> array[int]:
    """Emit at a fixed rate; nanoseconds of each call.

    With ``work``, each call first does what a gateway does: it parses the answer and makes the
    event. Without, ``emit`` follows straight on a sleep.
    """
    event = call_event()
    body = answer()
    samples = array("q")
    clock = time.perf_counter_ns
    step_ns = round(1e9 / rate_per_s)
    due = clock() + step_ns
    for _ in range(round(rate_per_s * seconds)):
        wait_ns = due - clock()
        if wait_ns > 0:
            time.sleep(wait_ns / 1e9)
        if work:
            parsed = json.loads(body)
            event = call_event()
            event.response_id = parsed["id"]
            event.input_tokens = parsed["usage"]["prompt_tokens"]
            event.output_tokens = parsed["usage"]["completion_tokens"]
        begin = clock()
        emit(event)
        samples.append(clock() - begin)
        due += step_ns
    return samples


def emit_flat_out(emitter: Emitter, seconds: float) -> array[int]:
    """Emit as fast as possible; nanoseconds of each call."""
    event = call_event()
    samples = array("q")
    clock = time.perf_counter_ns
    until = clock() + round(seconds * 1e9)
    end = 0
    while end < until:
        begin = clock()
        emitter.emit(event)
        end = clock()
        samples.append(end - begin)
    return samples


@contextmanager
def slow_proxy(latency_ms: float, bytes_per_s: float) -> Iterator[str]:
    """A slow SOCKS5 proxy in a process of its own; its address."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "benchmarks.proxy",
            f"--latency-ms={latency_ms}",
            f"--bytes-per-s={bytes_per_s}",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"socks5://127.0.0.1:{process.stdout.readline().split()[1]}"
    finally:
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def say(text: str) -> None:
    """Progress for whoever watches."""
    print(text, file=sys.stderr, flush=True)


class Benchmark:
    """One broker, and a fresh topic and emitter for each measurement."""

    def __init__(self, broker: Broker, seconds: float, rate_per_s: float) -> None:
        self.broker = broker
        self.seconds = seconds
        self.rate_per_s = rate_per_s
        self._topics = 0

    def emitter(self, **options: Any) -> Emitter:
        """An emitter that has delivered its first event, to a topic of its own."""
        self._topics += 1
        topic = f"emitter-{self._topics}"
        create_topic(self.broker.bootstrap, topic)
        emitter = Emitter(self.broker.bootstrap, gateway="eu-1", topic=topic, **options)
        emitter.emit(call_event())
        if not emitter.flush(30):
            raise LostError("the first event was not acknowledged in 30 s")
        return emitter

    def measure(self, state: str, **options: Any) -> dict[str, Any]:
        """Both ways of emitting in one state of the broker."""
        ways: dict[str, Any] = {}
        for way in ("paced", "flat_out"):
            emitter = self.emitter(**options)
            if state == "down":
                self.broker.stop()
            if way == "paced":
                samples = emit_paced(emitter.emit, self.rate_per_s, self.seconds, work=True)
            else:
                samples = emit_flat_out(emitter, self.seconds)
            if state == "down":
                self.broker.restart()
            if not emitter.flush(120):
                raise LostError("not everything was acknowledged within 120 s after the run")
            emitter.close(10)
            ways[way] = timings(samples) | prove(self.broker.bootstrap, emitter.topic, emitter)
            say(f"{state} {way}: {ways[way]}")
        return ways

    def idle(self) -> dict[str, Any]:
        """What a call costs straight out of a sleep: one that does nothing, and ``emit()``."""
        emitter = self.emitter()
        nothing = emit_paced(lambda _: None, self.rate_per_s, self.seconds / 2, work=False)
        emit = emit_paced(emitter.emit, self.rate_per_s, self.seconds / 2, work=False)
        if not emitter.close(30):
            raise LostError("not everything was acknowledged within 30 s after the run")
        return {"nothing": timings(nothing), "emit": timings(emit)}

    def run(self, throughput_events: int) -> dict[str, Any]:
        """Everything."""
        states = {"up": self.measure("up")}
        # A smaller queue, so that a broker that is down or slow makes it overflow, and drops be counted.
        states["down"] = self.measure("down", queue_events=20_000)
        with slow_proxy(latency_ms=200, bytes_per_s=2e6) as address:
            states["slow"] = self.measure("slow", queue_events=20_000, kafka={"proxy_url": address})
        idle = self.idle()
        events_per_s = self.throughput(throughput_events)
        ways = [way for state in states.values() for way in state.values()]
        return {
            "emit_p50_us": max(way["p50_us"] for way in ways),
            "emit_p99_us": max(way["p99_us"] for way in ways),
            "events_per_s": events_per_s,
            "broker": states,
            "idle": idle,
        }

    def throughput(self, events: int) -> int:
        """Delivered events a second, records of 100, nothing dropped."""
        emitter = self.emitter(batch_events=100)
        event = call_event()
        begin = time.perf_counter()
        done = 0
        while done < events:
            # The queue is never let overflow; looking at it once in a while costs nothing.
            if emitter.queued > emitter.queue_events // 2:
                time.sleep(0.002)
                continue
            for _ in range(5_000):
                emitter.emit(event)
            done += 5_000
        if not emitter.flush(120):
            raise LostError("not everything was acknowledged within 120 s")
        events_per_s = round(done / (time.perf_counter() - begin))
        emitter.close(10)
        counts = prove(self.broker.bootstrap, emitter.topic, emitter)
        if counts["dropped"]:
            raise LostError(f"the throughput run dropped events: {counts}")
        say(f"throughput: {events_per_s} events a second; {counts}")
        return events_per_s


def main() -> None:
    """Run, prove, print one JSON object as the last line."""
    parser = argparse.ArgumentParser(description="What the emitter costs a gateway.")
    parser.add_argument("--seconds", type=float, default=10, help="length of each of the six timed runs")
    parser.add_argument("--rate", type=float, default=2_000, help="events a second of the paced runs")
    parser.add_argument("--events", type=int, default=1_000_000, help="events of the throughput run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gatewatch-benchmark-") as folder, Broker(Path(folder)) as broker:
        try:
            result = Benchmark(broker, options.seconds, options.rate).run(options.events)
        except LostError as error:
            say(f"benchmarks.emitter: no speed is reported, events are missing: {error}")
            print(json.dumps({"emit_p50_us": None, "emit_p99_us": None, "events_per_s": None, "broker": {}}))
            sys.exit(1)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
