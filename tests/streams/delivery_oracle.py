"""What the views must hold, computed from the input by other code: plain Python, one line at a time.

Shares nothing with ``signals`` and ``sinks``: JSON is read with ``json``, sketches are ``math``, merging
is dictionaries. It knows no batches, flushes, crashes or versions; its only notion of delivery is the
chunk, because series limits and the suppression of repeats are promised by the chunk.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from sinks.clickhouse import Sink

__all__ = ["Mismatch", "compare"]

Log: TypeAlias = Sequence[tuple[int, bytes]]
"""Of one source: (append time in ms, value) by offset."""
Key: TypeAlias = tuple[str, str, str, int]
"""(signal, label, series, window)."""

_CUTS: Final = {
    "gateway": ("gateway",),
    "model": ("provider", "model"),
    "deployment": ("provider", "model", "deployment"),
    "operation": ("operation",),
    "tenant": ("tenant",),
    "team": ("tenant", "team"),
    "tenant_model": ("tenant", "provider", "model"),
}
_DEFAULTS: Final = {"operation": "chat"}
_LOG_GAMMA: Final = math.log(1.01 / 0.99)
_NANO_USD: Final = {"gpt-4o": {"input_tokens": 2_500, "output_tokens": 10_000}}
"""What a token costs, of the world's models that have a price: $2.50 and $10 for a million (OpenAI, 2025)."""
_OWNERS: Final = ("gateway", "model", "tenant", "team")
"""Cuts of the cost family, but for the spend itself, which has all."""


class Mismatch(AssertionError):
    """A view does not hold what the input says."""


class Measure:
    """What is measured of one key."""

    def __init__(self) -> None:
        self.n = 0
        self.total = 0
        self.buckets: Counter[int] = Counter()

    def add(self, other: Measure) -> None:
        self.n += other.n
        self.total += other.total
        self.buckets.update(other.buckets)

    def plain(self) -> tuple[int, int, tuple[tuple[int, int], ...]]:
        return self.n, self.total, tuple(sorted((b, n) for b, n in self.buckets.items() if n))


class Aggregates:
    """One chunk's."""

    def __init__(self, series_limit: int) -> None:
        self.measures: defaultdict[Key, Measure] = defaultdict(Measure)
        self.totals = dict.fromkeys(("records", "events", "duplicates", "late", "rejects"), 0)
        self.seen: dict[str, set[int]] = {}
        self.repeats: Counter[str] = Counter()
        self._limit = series_limit
        self._kept: dict[str, list[tuple[str, ...]]] = {cut: [] for cut in _CUTS}

    def series(self, cut: str, event: Mapping[str, Any]) -> str:
        values = tuple(event.get(name, _DEFAULTS.get(name, "")) for name in _CUTS[cut])
        kept = self._kept[cut]
        if values not in kept:
            if len(kept) >= self._limit:
                values = ("__other__",) * len(values)
            else:
                kept.append(values)
        return json.dumps([cut, *values], separators=(",", ":"))

    def count(self, signal: str, label: str, series: str, at_ms: int, value: int | None = None) -> Measure:
        measure = self.measures[signal, label, series, at_ms // 60_000 * 60]
        measure.n += 1
        measure.total += value or 0
        return measure


def _lines(value: bytes) -> list[dict[str, Any] | str]:
    """Events as dictionaries, other lines as the reason why they are none."""
    made: list[dict[str, Any] | str] = []
    for line in value.split(b"\n"):
        if line == b"{" or line == b"\xff":
            made.append("invalid_json")
        elif line == b'{"kind":"call"}':
            made.append("invalid_event")
        else:
            made.append(json.loads(line))
    return made


def _refused(event: Mapping[str, Any], appended_ms: int, max_age_ms: int) -> bool:
    return bool(min(event["at_ms"], event.get("started_at_ms", event["at_ms"])) < appended_ms - max_age_ms)


def aggregate(log: Log, first: int, last: int, rules: Mapping[str, int], series_limit: int) -> Aggregates:
    """A chunk's aggregates from its records ``first`` to ``last``."""
    chunk = Aggregates(series_limit)
    for offset in range(first, last + 1):
        appended_ms, value = log[offset]
        chunk.totals["records"] += 1
        for line in _lines(value):
            reason = line if isinstance(line, str) else None
            again = False
            if isinstance(line, dict):
                seen = chunk.seen.setdefault(line["emitter_id"], set())
                again = line["seq"] in seen
                seen.add(line["seq"])
                chunk.repeats[line["emitter_id"]] += again
                if _refused(line, appended_ms, rules["max_age_ms"]):
                    reason = "event_too_old"
            if reason is not None or isinstance(line, str):
                chunk.totals["rejects"] += 1
                chunk.count("pipeline_rejects_count", str(reason), '["all"]', appended_ms)
                continue
            _take(chunk, line, again, appended_ms - line["at_ms"] > rules["grace_ms"])
    return chunk


def _take(chunk: Aggregates, event: Mapping[str, Any], again: bool, late: bool) -> None:
    at_ms, kind = event["at_ms"], event["kind"]
    chunk.totals["events"] += 1
    chunk.totals["duplicates"] += again
    chunk.totals["late"] += late
    gateway = chunk.series("gateway", event)
    chunk.count("pipeline_events_count", kind, gateway, at_ms)
    if late:
        chunk.count("pipeline_late_events_count", "", gateway, at_ms)
    if again:
        chunk.count("pipeline_duplicate_events_count", "", gateway, at_ms)
        return
    if kind == "feedback":
        return
    for cut in _CUTS:
        series = chunk.series(cut, event)
        if kind in ("call", "response"):
            chunk.count("performance_calls_count", "", series, at_ms)
        if event.get("error_class"):
            chunk.count("performance_errors_count", event["error_class"], series, at_ms)
        for field in ("input_tokens", "output_tokens"):
            if field in event:
                chunk.count(f"performance_{field}_sum", "", series, at_ms, event[field])
        for signal, label, value in _costs(event):
            if signal == "cost_spend_sum" or cut in _OWNERS:
                chunk.count(signal, label, series, at_ms, value)
        if "total_ms" in event:
            us = round(event["total_ms"] * 1000)
            measure = chunk.count("performance_latency_us", "", series, at_ms, us)
            measure.buckets[math.ceil(math.log(us) / _LOG_GAMMA)] += 1


def _cost(event: Mapping[str, Any]) -> tuple[str, int | None, dict[str, int]]:
    """Status, nano-USD and parts of an event that ended its call."""
    used = {name: event[name] for name in ("input_tokens", "output_tokens") if name in event}
    rates = _NANO_USD.get(event["model"])
    if rates and used:
        parts = {name.removesuffix("_tokens"): rates[name] * count for name, count in used.items()}
        return "priced" if len(used) == 2 else "partial", sum(parts.values()), parts
    if "reported_cost_usd" in event:
        nano = round(event["reported_cost_usd"] * 1e9)
        return "provider_reported", nano, {"other": nano}
    return "unpriced", None, {}


def _costs(event: Mapping[str, Any]) -> Iterator[tuple[str, str, int | None]]:
    """What the cost family counts of an event: signal, label, value."""
    if event["kind"] not in ("call", "response"):
        return
    status, nano, parts = _cost(event)
    yield "cost_status_count", status, None
    used = [event[name] for name in ("input_tokens", "output_tokens") if name in event]
    yield "cost_usage_count", "provider" if used else "missing", None
    if nano is None:
        if sum(used):
            yield "cost_unpriced_tokens_sum", "", sum(used)
        return
    yield "cost_spend_sum", "", nano
    yield from (("cost_parts_sum", part, amount) for part, amount in parts.items() if amount)
    if "reported_cost_usd" in event and status != "provider_reported":
        yield "cost_reported_sum", "", round(event["reported_cost_usd"] * 1e9)
        yield "cost_reported_ours_sum", "", nano


def _check(what: str, got: Any, expected: Any) -> None:
    if got == expected:
        return
    if isinstance(got, dict) and isinstance(expected, dict):
        keys = [key for key in {**got, **expected} if got.get(key) != expected.get(key)]
        parts = [f"{key}: {got.get(key)} instead of {expected.get(key)}" for key in keys[:4]]
        raise Mismatch(f"{what}: {len(keys)} differ: " + "; ".join(parts))
    raise Mismatch(f"{what}: {got} instead of {expected}")


def compare(
    sink: Sink,
    history: Mapping[int, Log],
    headless: set[tuple[int, int]],
    series_limits: Sequence[int],
    rules: Mapping[str, int],
) -> None:
    """Hold the sink against the input.

    Parameters
    ----------
    history
        Everything that was appended, by source.
    headless
        (source, chunk's first offset) of chunks that somebody had to read without their start: what they
        hold is a prefix of theirs, and never more or less than that prefix says.
    series_limits
        Of all codes that were deployed: each chunk is as one of them computes it, as a whole.
    rules
        ``chunk_records``, ``grace_ms``, ``max_age_ms``.

    Raises
    ------
    Mismatch
    """
    counted = _chunks(sink, history, headless, series_limits, rules)
    _measures(sink, counted, exact=len(series_limits) == 1)
    _emitters(sink, counted)
    _delivery(sink, counted)
    _calls(sink, history, rules)
    _places(sink, history, rules)


def _chunks(
    sink: Sink,
    history: Mapping[int, Log],
    headless: set[tuple[int, int]],
    series_limits: Sequence[int],
    rules: Mapping[str, int],
) -> dict[int, list[Aggregates]]:
    """Check the stored chunks; what they should hold, by source, in a code that they do hold."""
    stored: dict[tuple[int, int], dict[str, Any]] = {}
    for source, first, last, family, totals, *arrays in sink.rows(
        "SELECT source, first_offset, last_offset, family, (records, events, duplicates, late, rejects), "
        "signal, label, series, arrayMap(w -> toUnixTimestamp(w), window), n, sum, buckets, counts "
        "FROM gatewatch_store.chunks FINAL"
    ):
        row = stored.setdefault((source, first), {"last": set(), "measures": {}, "totals": None, "rows": []})
        row["rows"].append(family)
        row["last"].add(last)
        row["totals"] = totals if family == "pipeline" else row["totals"]
        for signal, label, series, window, n, total, buckets, counts in zip(*arrays, strict=True):
            pairs = tuple(zip(buckets, counts, strict=True))
            row["measures"][signal, label, series, window] = (n, total, pairs)
    size = rules["chunk_records"]
    expected = {(s, first) for s, log in history.items() for first in range(0, len(log), size)}
    missing = expected - set(stored) - headless
    if missing or set(stored) - expected:
        raise Mismatch(f"chunks missing: {missing}, unexpected: {set(stored) - expected}")
    counted: dict[int, list[Aggregates]] = defaultdict(list)
    for (source, first), row in sorted(stored.items()):
        log = history[source]
        if len(row["last"]) != 1 or sorted(row["rows"]) != ["cost", "performance", "pipeline"]:
            raise Mismatch(f"chunk {first}: rows {row['rows']} through {row['last']}")
        (last,) = row["last"]
        end = min(first + size, len(log)) - 1
        if last != end and (source, first) not in headless:
            raise Mismatch(f"chunk {first} ends at {last} instead of {end}")
        answers = [aggregate(log, first, last, rules, limit) for limit in series_limits]
        plain = [{key: m.plain() for key, m in answer.measures.items()} for answer in answers]
        if row["measures"] not in plain:
            _check(f"chunk {first} through {last}", row["measures"], plain[0])
        _check(f"totals of chunk {first}", tuple(row["totals"]), tuple(answers[0].totals.values()))
        counted[source].append(answers[plain.index(row["measures"])])
    return counted


def _measures(sink: Sink, counted: Mapping[int, Iterable[Aggregates]], exact: bool) -> None:
    """Series by series; where two codes were deployed, cut by cut, since either may have closed a window."""
    got: defaultdict[Any, Measure] = defaultdict(Measure)
    for signal, label, window, cut, values, n, total, buckets, counts in sink.rows(
        "SELECT signal, label, toUnixTimestamp(window_start), cut, "
        "map('gateway', gateway, 'provider', provider, 'model', model, 'deployment', deployment, "
        "'operation', operation, 'tenant', tenant, 'team', team), n, sum, buckets, counts "
        "FROM gatewatch.measures"
    ):
        series = json.dumps([cut, *(values[name] for name in _CUTS.get(cut, ()))], separators=(",", ":"))
        measure = got[signal, label, series if exact else cut, window]
        if exact and measure.n:
            raise Mismatch(f"measures hold {signal} {label} {series} {window} twice")
        measure.n += n
        measure.total += total
        measure.buckets.update(dict(zip(buckets, counts, strict=True)))
    expected: defaultdict[Any, Measure] = defaultdict(Measure)
    for chunks in counted.values():
        for chunk in chunks:
            for (signal, label, series, window), measure in chunk.measures.items():
                expected[signal, label, series if exact else json.loads(series)[0], window].add(measure)
    _check(
        "measures",
        {key: measure.plain() for key, measure in got.items()},
        {key: measure.plain() for key, measure in expected.items()},
    )


def _emitters(sink: Sink, counted: Mapping[int, Iterable[Aggregates]]) -> None:
    seen: defaultdict[str, set[int]] = defaultdict(set)
    received: Counter[str] = Counter()
    for chunks in counted.values():
        for chunk in chunks:
            for emitter_id, numbers in chunk.seen.items():
                seen[emitter_id] |= numbers
                received[emitter_id] += len(numbers) + chunk.repeats[emitter_id]
    expected = {
        emitter_id: (
            min(numbers),
            max(numbers),
            received[emitter_id],
            max(numbers) - min(numbers) + 1 - len(numbers),
            received[emitter_id] - len(numbers),
        )
        for emitter_id, numbers in seen.items()
    }
    rows = sink.rows(
        "SELECT emitter_id, first_seq, last_seq, received, gaps, duplicates FROM gatewatch.emitters"
    )
    _check("emitters", {row[0]: tuple(row[1:]) for row in rows}, expected)


def _delivery(sink: Sink, counted: Mapping[int, Iterable[Aggregates]]) -> None:
    expected: dict[int, tuple[int, ...]] = {}
    for source, chunks in counted.items():
        columns = zip(*(chunk.totals.values() for chunk in chunks), strict=True)
        expected[source] = tuple(sum(column) for column in columns)
    rows = sink.rows("SELECT source, records, events, duplicates, late, rejects FROM gatewatch.delivery")
    _check("delivery", {row[0]: tuple(row[1:]) for row in rows}, expected)


_RANKED: Final = {"request": "request", "response": "response", "call": "call"}


def _accepted(history: Mapping[int, Log], rules: Mapping[str, int]) -> Iterable[Mapping[str, Any]]:
    for log in history.values():
        for appended_ms, value in log:
            for line in _lines(value):
                if isinstance(line, dict) and not _refused(line, appended_ms, rules["max_age_ms"]):
                    yield line


def _calls(sink: Sink, history: Mapping[int, Log], rules: Mapping[str, int]) -> None:
    """Parts of a call meet in one row, whichever came first and how often."""
    expected: dict[str, dict[str, Any]] = {}
    for event in _accepted(history, rules):
        if event["kind"] == "feedback":
            continue
        fresh = {"parts": set(), "ended": 0, "model": "", "error": "", "in": None, "out": None, "us": None}
        fresh |= {"status": "", "nano": None}
        call = expected.setdefault(event["call_id"], fresh | {"messages": None})
        call["parts"].add(event["kind"])
        call["ended"] = max(call["ended"], event["at_ms"])
        call["model"] = max(call["model"], event["model"])
        call["error"] = max(call["error"], event.get("error_class", ""))
        for name, field in (("in", "input_tokens"), ("out", "output_tokens"), ("messages", "message_count")):
            if field in event:
                call[name] = event[field]
        if "total_ms" in event:
            call["us"] = round(event["total_ms"] * 1000)
        if event["kind"] in ("call", "response"):
            call["status"], call["nano"], _ = _cost(event)
    got = {
        row[0]: {
            "parts": set(row[1]),
            "ended": row[2],
            "model": row[3],
            "error": row[4],
            "in": row[5],
            "out": row[6],
            "us": None if row[7] is None else round(row[7] * 1000),
            "messages": row[8],
            "status": row[9],
            "nano": None if row[10] is None else int(row[10] * 10**9),
        }
        for row in sink.rows(
            "SELECT call_id, parts_seen, toUnixTimestamp64Milli(ended_at), model, error_class, input_tokens, "
            "output_tokens, total_ms, message_count, cost_status, cost_usd FROM gatewatch.calls"
        )
    }
    _check("calls", got, expected)
    ((rows,),) = sink.rows("SELECT count() FROM gatewatch.calls")
    _check("number of calls", rows, len(expected))


def _places(sink: Sink, history: Mapping[int, Log], rules: Mapping[str, int]) -> None:
    """Dead letters and feedback are one row for each place in the log."""
    letters: Counter[tuple[int, int, int, str]] = Counter()
    feedback: Counter[float] = Counter()
    for source, log in history.items():
        for offset, (appended_ms, value) in enumerate(log):
            for number, line in enumerate(_lines(value)):
                if isinstance(line, str):
                    letters[source, offset, number, line] += 1
                elif _refused(line, appended_ms, rules["max_age_ms"]):
                    letters[source, offset, number, "event_too_old"] += 1
                elif line["kind"] == "feedback":
                    feedback[line["score"]] += 1
    rows = sink.rows("SELECT source, offset, line, reason FROM gatewatch.dead_letters")
    _check("dead letters", dict(Counter(tuple(row) for row in rows)), dict(letters))
    scores = sink.rows("SELECT score, count() FROM gatewatch.feedback GROUP BY score")
    _check("feedback", {row[0]: row[1] for row in scores}, dict(feedback))
