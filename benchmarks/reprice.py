"""Ten million stored calls priced again: `python -m benchmarks.reprice`.

The engine, in a process of its own, makes a day of calls with what lanes would have stored of their costs
(``INSERT ... SELECT``). Then the core of `gatewatch reprice` runs twice over the day:

- ``unchanged_s``: at the prices that they have. Every call is read and priced, none is written.
- ``changed_s``: with every price raised by a fifth. Every call is written, and the measures corrected.

``peak_mib`` is the largest memory of this process and of the engine's, each with ``_unchanged`` or
``_changed`` of its run. The sums are held against an independent one in the engine before anything is
reported: of the calls, and of the measures' corrections, to the nano-dollar. The last line of output is one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import psutil

from gatewatch.contract import Contract
from gatewatch.price_book import Price, PriceBook
from signals.cost import AMOUNT_BITS, VERSION_BITS
from sinks.clickhouse import Sink
from sinks.migration import migrate
from sinks.repricing import Outcome, Scope, reprice_calls
from sinks.schema import STORE
from streams.process import end, spawn

DAY_MS: Final = 1_795_132_800_000
"""2026-11-20."""
_HOURS: Final = 24
_PIECES: Final = 20

MODELS: Final = (
    ("openai", "gpt-4o"),
    ("openai", "gpt-4o-mini"),
    ("anthropic", "claude-sonnet-4-5"),
    ("anthropic", "claude-haiku-4-5"),
)
PARTS: Final = ("input", "cache_read", "output")


class WrongError(Exception):
    """Repricing did not give what it should have; no speed is reported."""


def prices(book: PriceBook) -> list[Price]:
    """The prices of the models."""
    found = [book.resolve(provider, model, DAY_MS) for provider, model in MODELS]
    return [price for price in found if isinstance(price, Price)]


def rate_nano(price: Price, part: str) -> int:
    """What a token costs below the context tiers, in whole nano-USD: all rates of these models are."""
    ((pico, *_),) = [charge.rates for charge in price.charges if charge.part == part]
    if pico % 1000:
        raise WrongError(f"{price.price_id}: the rate of {part} is finer than a nano-USD")
    return pico // 1000


def _of_model(values: list[Any]) -> str:
    listed = ", ".join(repr(value) for value in values)
    return f"[{listed}][number % {len(MODELS)} + 1]"


def make_calls(sink: Sink, calls: int, book: PriceBook) -> None:
    """Let the engine make calls and what a lane stores of their costs, at version 1 of the prices."""
    known = prices(book)
    head, rank = (3 << VERSION_BITS | 1) << AMOUNT_BITS, 3 << AMOUNT_BITS
    tokens = {
        "input": "500 + cityHash64(number, 1) % 3000",
        "cache_read": "cityHash64(number, 2) % 400",
        "output": "20 + cityHash64(number, 3) % 900",
    }
    counted = {**tokens, "input": f"{tokens['input']} - {tokens['cache_read']}"}
    rates = {part: _of_model([rate_nano(price, part) for price in known]) for part in PARTS}
    price_ids = [f"300015{price.price_id}\0" for price in known]
    columns = {
        "started_at": f"fromUnixTimestamp64Milli({DAY_MS} + "
        f"toInt64(intDiv(number * {_HOURS * 3_600_000}, {calls})), 'UTC')",
        "call_id": "lower(hex(sipHash128(number)))",
        "last_at": "addMilliseconds(started_at, 200 + cityHash64(number, 4) % 20000)",
        "gateway": "concat('eu-', toString(number % 3))",
        "environment": "'production'",
        "provider": _of_model([provider for provider, _ in MODELS]),
        "model": _of_model([model for _, model in MODELS]),
        "operation": "'chat'",
        "deployment": "concat(model, '-1')",
        "tenant": "concat('tenant-', toString(least(cityHash64(number, 5) % 80, 50)))",
        "team": "concat('team-', toString(cityHash64(number, 6) % 7))",
        "stream": "2",
        "stream_end": "'complete'",
        "status_code": "201",
        "input_tokens": f"{rank} + {tokens['input']}",
        "cache_read_tokens": f"{rank} + {tokens['cache_read']}",
        "output_tokens": f"{rank} + {tokens['output']}",
        "total_us": "200000 + cityHash64(number, 4) % 20000000",
        "ttft_us": "100000 + cityHash64(number, 7) % 1000000",
        "parts": "16",
        **{f"cost_{part}": f"{head} + ({counted[part]}) * {rates[part]}" for part in PARTS},
        **{f"cost_{part}": str(head) for part in ("cache_write", "reasoning", "other")},
        "price": _of_model(price_ids).replace("\0", "\\0").replace("\\x00", "\\0"),
        "cost_minute": "toUInt32(intDiv(toUnixTimestamp64Milli(last_at), 60000))",
    }
    selected = ", ".join(f"{expression} AS {name}" for name, expression in columns.items())
    step = -(-calls // _PIECES)
    for begin in range(0, calls, step):
        sink.command(
            f"INSERT INTO {STORE}.calls ({', '.join(columns)}) "
            f"SELECT {selected} FROM numbers({begin}, {min(step, calls - begin)})"
        )


def peak_mib(pid: int) -> int:
    """The largest resident memory of a process since it was last forgotten."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) >> 10
    raise WrongError(f"process {pid} does not say how much memory it has used")


def forget_peak(pid: int) -> None:
    """Begin to count the largest resident memory of a process from what it is now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def settle(sink: Sink) -> None:
    """Wait until nothing is being merged."""
    while sink.rows("SELECT count() FROM system.merges")[0][0]:
        time.sleep(0.2)


def run(sink: Sink, engine: int, version: int, book: PriceBook) -> tuple[Outcome, float, int]:
    """Price the day again: what came of it, seconds, and MiB of this process and the engine together."""
    settle(sink)
    for pid in (os.getpid(), engine):
        forget_peak(pid)
    before_cpu = sum(psutil.Process(engine).cpu_times()[:2]) + sum(os.times()[:2])
    scope = Scope(from_ms=DAY_MS, until_ms=DAY_MS + _HOURS * 3_600_000)
    done = 0

    def progress(calls: int) -> None:
        nonlocal done
        done += calls
        if sys.stderr.isatty():
            print(f"\r{done:,} calls", end="", file=sys.stderr, flush=True)

    begin = time.perf_counter()
    outcome = reprice_calls(sink, scope, version, book, on_progress=progress)
    seconds = time.perf_counter() - begin
    peaks = [peak_mib(pid) for pid in (os.getpid(), engine)]
    cpu = sum(psutil.Process(engine).cpu_times()[:2]) + sum(os.times()[:2]) - before_cpu
    print(
        f"version {version}: {outcome.calls:,} calls, {outcome.changed:,} changed, {seconds:.1f} s, "
        f"{cpu:.1f} s of processor time, {peaks[0]} MiB here and {peaks[1]} MiB in the engine",
        flush=True,
    )
    return outcome, seconds, sum(peaks)


def check(sink: Sink, calls: int, book: PriceBook, outcome: Outcome) -> None:
    """Hold what is stored against sums that the engine makes of counts and rates alone."""
    parts = {
        "input": "input_tokens - cache_read_tokens",
        "cache_read": "cache_read_tokens",
        "output": "output_tokens",
    }
    known = prices(book)
    expected = 0
    for (_, model), price in zip(MODELS, known, strict=True):
        sums = ", ".join(f"sum({count}) * {rate_nano(price, part)}" for part, count in parts.items())
        rows = sink.rows(f"SELECT {sums} FROM gatewatch.calls WHERE model = '{model}'")
        expected += sum(int(value) for value in rows[0])
    usd, reported = sink.rows("SELECT sum(cost_usd), sum(cost_as_reported_usd) FROM gatewatch.calls")[0]
    corrected = sink.rows(
        "SELECT sum(sum) FROM gatewatch.measures WHERE signal = 'cost_spend_sum' AND cut = 'tenant'"
    )[0][0]
    found = (int(usd * 10**9), int((usd - reported) * 10**9), outcome.calls, outcome.after_nano_usd)
    wanted = (expected, int(corrected), calls, expected)
    if found != wanted:
        raise WrongError(f"stored {found}, expected {wanted}")


def measure(calls: int) -> dict[str, Any]:
    """All figures, on an engine of its own."""
    book = PriceBook()
    raised = PriceBook([Contract(contract_id="raised", adjust_bp=2000)])
    with tempfile.TemporaryDirectory(prefix="gatewatch-reprice-") as directory:
        data = Path(directory) / "data"
        command = [sys.executable, "-P", "-m", "sinks.engine", "--data", str(data), "--port", "0"]
        root = Path(__file__).parents[1]
        process = spawn(command, log=Path(directory) / "log", directory=root, capture=True)
        try:
            assert process.stdout is not None
            url = process.stdout.readline().decode().split()[1]
            sink = Sink(url, "writer", (data / "engine.token").read_text().strip(), timeout_s=600)
            migrate(sink)
            make_calls(sink, calls, book)
            same, unchanged_s, unchanged_mib = run(sink, process.pid, 1, book)
            if same.changed or same.calls != calls:
                raise WrongError(f"{same.changed} of {same.calls} calls changed at the same prices")
            other, changed_s, changed_mib = run(sink, process.pid, 2, raised)
            if other.changed != calls:
                raise WrongError(f"{other.changed} of {calls} calls changed at other prices")
            check(sink, calls, raised, other)
            sink.close()
        finally:
            end(process, 30)
    return {
        "calls": calls,
        "unchanged_s": round(unchanged_s, 1),
        "changed_s": round(changed_s, 1),
        "peak_mib_unchanged": unchanged_mib,
        "peak_mib_changed": changed_mib,
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print the figures; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reprice", description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000_000)
    options = parser.parse_args(arguments)
    try:
        figures = measure(options.calls)
    except WrongError as error:
        print(f"no speed is reported: {error}", file=sys.stderr)
        return 1
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
