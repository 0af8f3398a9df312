"""A slow network: a SOCKS5 proxy that delays and throttles what passes through it.

A process of its own, so that its work does not show in the measured process::

    python -m benchmarks.proxy --latency-ms 200 --bytes-per-s 2000000

prints ``ready PORT`` and serves on loopback until its standard input ends. A SOCKS proxy rather
than a forwarded port, because a Kafka client connects to the address that the broker
advertises, not to the one it was given. RFC 1928, without authentication, CONNECT only.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import struct
import sys
from contextlib import suppress

_CHUNK_BYTES = 64 * 1024


async def _relay(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, latency_s: float, bytes_per_s: float
) -> None:
    """Pass bytes on, each ``latency_s`` after it came and not faster than ``bytes_per_s``."""
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=16)

    async def receive() -> None:
        while chunk := await reader.read(_CHUNK_BYTES):
            await chunks.put((loop.time() + latency_s, chunk))
        await chunks.put((0.0, b""))

    async def send() -> None:
        free_at = loop.time()
        while True:
            due, chunk = await chunks.get()
            if not chunk:
                return
            free_at = max(free_at, loop.time()) + len(chunk) / bytes_per_s
            await asyncio.sleep(max(due, free_at) - loop.time())
            writer.write(chunk)
            await writer.drain()

    receiving = asyncio.create_task(receive())
    try:
        await send()
    finally:
        receiving.cancel()
        writer.close()


async def _serve(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, latency_s: float, bytes_per_s: float
) -> None:
    with suppress(ConnectionError, asyncio.IncompleteReadError, OSError):
        _, methods = await reader.readexactly(2)
        await reader.readexactly(methods)
        writer.write(b"\x05\x00")
        _, _, _, kind = await reader.readexactly(4)
        if kind == 1:
            host = socket.inet_ntop(socket.AF_INET, await reader.readexactly(4))
        elif kind == 4:
            host = socket.inet_ntop(socket.AF_INET6, await reader.readexactly(16))
        else:
            host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        (port,) = struct.unpack("!H", await reader.readexactly(2))
        try:
            far_reader, far_writer = await asyncio.open_connection(host, port)
        except OSError:
            writer.write(b"\x05\x05\x00\x01" + bytes(6))  # connection refused
            writer.close()
            return
        writer.write(b"\x05\x00\x00\x01" + bytes(6))
        await asyncio.gather(
            _relay(reader, far_writer, latency_s, bytes_per_s),
            _relay(far_reader, writer, latency_s, bytes_per_s),
            return_exceptions=True,
        )


async def _run(latency_s: float, bytes_per_s: float) -> None:
    server = await asyncio.start_server(
        lambda reader, writer: _serve(reader, writer, latency_s, bytes_per_s), "127.0.0.1", 0
    )
    print("ready", server.sockets[0].getsockname()[1], flush=True)
    # The end of standard input is the end of whoever started this: nothing is left behind.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(description="A slow SOCKS5 proxy on loopback.")
    parser.add_argument("--latency-ms", type=float, default=200, help="one way")
    parser.add_argument("--bytes-per-s", type=float, default=2e6, help="each way and connection")
    options = parser.parse_args()
    asyncio.run(_run(options.latency_ms / 1_000, options.bytes_per_s))


if __name__ == "__main__":
    main()
