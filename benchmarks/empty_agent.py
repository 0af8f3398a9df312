"""A Faust agent on a raw topic that does nothing: what Faust costs a record, whatever is in it.

``python -m benchmarks.empty_agent KAFKA TOPIC RECORDS`` ends when it has seen so many records. It prints two
lines, ``first T CPU`` and ``last T CPU``: the monotonic clock and the processor time of this process, both in
seconds, when it saw the first record and the last. With ``--own-consumer`` it has the worker's consumer
(`streams.consumer`) in place of Faust's, which says how much of the worker's speed is that.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import tempfile
import time
from typing import Any

import faust
import uvloop

from streams.consumer import install


async def _stay(_: Any) -> None:
    """Read on where Faust starts."""


async def _run(options: argparse.Namespace, datadir: str) -> None:
    app = faust.App(
        f"empty-{os.getpid()}",
        broker=f"kafka://{options.kafka}",
        datadir=datadir,
        store="memory://",
        web_enabled=False,
        topic_disable_leader=True,
        stream_wait_empty=False,
        stream_buffer_maxsize=256,
        table_standby_replicas=0,
        consumer_auto_offset_reset="earliest",
        broker_max_poll_records=500,
        broker_session_timeout=30.0,
    )
    if options.own_consumer:
        install(app, _stay)
    done = asyncio.Event()
    seen = 0

    async def do_nothing(stream: Any) -> None:
        nonlocal seen
        async for _ in stream:
            seen += 1
            if seen == 1:
                print(f"first {time.monotonic()} {time.process_time()}", flush=True)
            if seen == options.records:
                print(f"last {time.monotonic()} {time.process_time()}", flush=True)
                done.set()

    app.agent(app.topic(options.topic, value_type=bytes, value_serializer="raw"), concurrency=1)(do_nothing)
    await app.start()
    await done.wait()
    await app.stop()


def main() -> None:
    """Read the records."""
    logging.basicConfig(level=logging.ERROR)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.empty_agent")
    parser.add_argument("kafka", help="host:port")
    parser.add_argument("topic")
    parser.add_argument("records", type=int, help="how many to read")
    parser.add_argument("--own-consumer", action="store_true", help="with the worker's consumer")
    options = parser.parse_args()
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # as the worker does
    with tempfile.TemporaryDirectory() as datadir:
        asyncio.run(_run(options, datadir))


if __name__ == "__main__":
    main()
