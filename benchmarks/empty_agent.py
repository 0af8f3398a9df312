"""A Faust agent on a raw topic that does nothing: what Faust costs a record, whatever is in it.

``python -m benchmarks.empty_agent KAFKA TOPIC RECORDS`` ends when it has seen so many records. It prints two
lines, ``first T CPU`` and ``last T CPU``: the monotonic clock and the processor time of this process, both in
seconds, when it saw the first record and the last. It has the worker's consumer, for with Faust's own it
would wait where the worker does not, and the worker would look better than it is.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
import time
from typing import Any

import faust
import uvloop

from streams.consumer import install


async def _stay(_: Any) -> None:
    """Read on where Faust starts."""


async def _run(kafka: str, topic: str, records: int, datadir: str) -> None:
    app = faust.App(
        f"empty-{os.getpid()}",
        broker=f"kafka://{kafka}",
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
    install(app, _stay)
    done = asyncio.Event()
    seen = 0

    async def do_nothing(stream: Any) -> None:
        nonlocal seen
        async for _ in stream:
            seen += 1
            if seen == 1:
                print(f"first {time.monotonic()} {time.process_time()}", flush=True)
            if seen == records:
                print(f"last {time.monotonic()} {time.process_time()}", flush=True)
                done.set()

    app.agent(app.topic(topic, value_type=bytes, value_serializer="raw"), concurrency=1)(do_nothing)
    await app.start()
    await done.wait()
    await app.stop()


def main() -> None:
    """Read the records."""
    logging.basicConfig(level=logging.ERROR)
    kafka, topic, records = sys.argv[1], sys.argv[2], int(sys.argv[3])
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # as the worker does
    with tempfile.TemporaryDirectory() as datadir:
        asyncio.run(_run(kafka, topic, records, datadir))


if __name__ == "__main__":
    main()
