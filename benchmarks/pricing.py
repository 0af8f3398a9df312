"""What pricing costs: `python -m benchmarks.pricing`.

* ``filter_calls_per_s``: the command `gatewatch price` as it is run, in a process of its own: JSON lines in
  by a pipe, answers out by a pipe, explanation included. Its start is left out: the clock starts at the first
  answer. The best of three, because the machine is shared. Usage is unique in every line.
* ``function_us_per_call``: ``gatewatch.price(...)`` alone, in this process.
* ``columns_ns_per_call``: the same policy evaluated on columns, with nano-USD by part: batches of a
  thousand calls of one model, counts unique, resolution and segment included once for a batch.
* ``lane_ns_per_event``: what a lane does for a flush of 25,000 call events of `benchmarks.workload`: finding
  the rows that share a price, pricing, and laying the costs out as they are stored.
* ``unknown_us_per_call``: looking up a model that nobody knows, a new name each time.

Every cost of the columns is compared with the function's before any speed is reported: where one differs,
the exit code is 1 and no figure is printed. The last line of output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.workload import calls
from gatewatch.charge import PARTS
from gatewatch.events import encode
from gatewatch.money import nano_parts
from gatewatch.price_book import Price, PriceBook
from gatewatch.pricing import evaluate, price
from gatewatch.usage import Usage
from signals.column import CallBatch
from signals.cost import costs
from signals.decoder import decode_values

AT_MS: Final = 1_795_176_000_000
BATCH: Final = 1_000
ROUNDS: Final = 3
FLUSH: Final = 25_000

MODELS: Final = (
    ("openai", "gpt-4o-2024-08-06", "default"),
    ("openai", "gpt-5.6-sol", "flex"),
    ("anthropic", "claude-sonnet-4-5-20250929", ""),
    ("aws.bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", ""),
    ("gcp.gemini", "gemini-2.5-flash", ""),
    ("azure.ai.openai", "gpt-4o", ""),
    ("x_ai", "grok-4.5", ""),
    ("openrouter", "anthropic/claude-3.7-sonnet", ""),
)


class DifferentError(Exception):
    """Columns and single calls do not cost the same."""


def line(number: int) -> bytes:
    """A call of the usual size in OpenAI's words; no two have the same usage."""
    provider, model, tier = MODELS[number % len(MODELS)]
    prompt, output = 300 + number, 20 + number % 977
    return (
        b'{"provider":"%s","model":"%s","service_tier":"%s","at":%d,"usage":{"prompt_tokens":%d,'
        b'"completion_tokens":%d,"total_tokens":%d,"prompt_tokens_details":{"cached_tokens":%d,"audio_tokens":0},'
        b'"completion_tokens_details":{"reasoning_tokens":%d,"audio_tokens":0}}}\n'
        % (
            provider.encode(),
            model.encode(),
            tier.encode(),
            AT_MS,
            prompt,
            output,
            prompt + output,
            prompt // 2,
            output // 3,
        )
    )


def filter_calls_per_s(calls: int) -> float:
    """How many calls a second `gatewatch price` answers, from its first answer to its last."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from gatewatch.cli import main; main()", "price"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None
    source = process.stdin
    source.write(line(0))
    source.flush()
    first = process.stdout.readline()
    lines = b"".join(line(number) for number in range(1, calls + 1))

    def feed() -> None:
        source.write(lines)
        source.close()

    writer = threading.Thread(target=feed)
    begin = time.perf_counter()
    writer.start()
    answered = sum(1 for _ in process.stdout)
    took = time.perf_counter() - begin
    writer.join()
    process.stdout.close()
    if process.wait() != 0 or answered != calls or b'"cost_status":"priced"' not in first:
        raise DifferentError(f"{answered} answers to {calls} calls, exit {process.returncode}")
    return calls / took


def columns_of(start: int) -> dict[str, NDArray[np.int64]]:
    """A batch of counts, none of them twice."""
    numbers = np.arange(start, start + BATCH, dtype=np.int64)
    prompt, output = 300 + numbers, 20 + numbers % 977
    return {
        "input_tokens": prompt,
        "cache_read_tokens": prompt // 2,
        "output_tokens": output,
        "output_reasoning_tokens": output // 3,
    }


def nano_of(found: Price, columns: dict[str, NDArray[np.int64]]) -> list[Any]:
    """Nano-USD by part, in the order of the parts that were used."""
    result = evaluate(found, columns)
    return nano_parts([result.parts[part] for part in PARTS if part in result.parts])


def resolved(book: PriceBook, model: tuple[str, str, str]) -> Price:
    """The price of a model, which all of those here have."""
    found = book.resolve(*model[:2], AT_MS, model[2])
    assert isinstance(found, Price), found
    return found


def prove(book: PriceBook) -> None:
    """Compare columns with single calls, to the nano-dollar."""
    for model in MODELS:
        columns = columns_of(7)
        by_column = sum(nano_of(resolved(book, model), columns))
        for row in range(0, BATCH, 97):
            counts: dict[str, Any] = {name: int(column[row]) for name, column in columns.items()}
            single = price(*model[:2], Usage(**counts), at_ms=AT_MS, service_tier=model[2], book=book)
            if sum(single.parts_nano_usd.values()) != int(by_column[row]):
                raise DifferentError(f"{model}: {single.explanation}")


def lane_ns_per_event(book: PriceBook) -> float:
    """What pricing a flush of a lane takes."""
    batch = CallBatch()
    for piece in decode_values([b"\n".join(encode(event) for event in calls(FLUSH, AT_MS))]):
        batch.add(piece, np.arange(len(piece)))
    table = batch.table()
    assert table is not None
    took = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        for _ in range(10):
            costs(table, book)
        took.append((time.perf_counter() - begin) / 10 / FLUSH)
    return min(took) * 1e9


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print the figures; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pricing", description=__doc__)
    parser.add_argument("--calls", type=int, default=40_000, help="lines for the filter in each round")
    parser.add_argument("--batches", type=int, default=400, help="batches of 1,000 calls for the columns")
    options = parser.parse_args(arguments)
    book = PriceBook()
    try:
        prove(book)
        filtered = []
        for _ in range(ROUNDS):
            filtered.append(filter_calls_per_s(options.calls))
            print(f"filter: {filtered[-1]:,.0f} calls/s", flush=True)
    except DifferentError as error:
        print(f"benchmarks.pricing: {error}", file=sys.stderr)
        return 1

    usage = {"prompt_tokens": 0, "completion_tokens": 100, "total_tokens": 0}
    single = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        for number in range(5_000):
            usage["prompt_tokens"] = number
            usage["total_tokens"] = number + 100
            price("openai", "gpt-4o", usage, at_ms=AT_MS, book=book)
        single.append((time.perf_counter() - begin) / 5_000)
    print(f"function: {min(single) * 1e6:.1f} us a call", flush=True)

    batches = [columns_of(number * BATCH) for number in range(options.batches)]
    by_column = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        for number, columns in enumerate(batches):
            nano_of(resolved(book, MODELS[number % len(MODELS)]), columns)
        by_column.append((time.perf_counter() - begin) / (options.batches * BATCH))
    print(f"columns: {min(by_column) * 1e9:.0f} ns a call", flush=True)

    in_lane = lane_ns_per_event(book)
    print(f"lane: {in_lane:.0f} ns an event", flush=True)

    begin = time.perf_counter()
    for number in range(2_000):
        book.resolve("openrouter", f"nobody/knows-{number}", AT_MS)
    unknown = (time.perf_counter() - begin) / 2_000
    print(
        json.dumps(
            {
                "filter_calls_per_s": round(max(filtered)),
                "function_us_per_call": round(min(single) * 1e6, 1),
                "columns_ns_per_call": round(min(by_column) * 1e9),
                "lane_ns_per_event": round(in_lane),
                "unknown_us_per_call": round(unknown * 1e6, 1),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
