"""The emitter's benchmark reports no speed for a run that lost anything."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
from array import array
from typing import Any

import pytest

from benchmarks import emitter as benchmark
from gatewatch.testing import RecordingEmitter


@pytest.mark.parametrize(
    ("arrived", "right"), [((3, 3), True), ((2, 2), False), ((4, 3), False), ((4, 4), False), ((3, 2), False)]
)
def test_what_arrived_and_was_dropped_must_be_what_was_emitted(
    monkeypatch: pytest.MonkeyPatch, arrived: tuple[int, int], right: bool
) -> None:
    emitter: Any = RecordingEmitter()
    for _ in range(3):
        emitter.emit(benchmark.call_event())
    emitter.close()
    emitter.emit(benchmark.call_event())  # dropped, and counted
    monkeypatch.setattr(benchmark, "arrived", lambda *_: arrived)
    with contextlib.nullcontext() if right else pytest.raises(benchmark.LostError):
        assert benchmark.prove("", "events", emitter) == {"emitted": 4, "arrived": 3, "dropped": 1}


def test_a_run_that_lost_anything_reports_no_speed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lose(*_: object) -> None:
        raise benchmark.LostError("2 of 3 arrived")

    monkeypatch.setattr(sys, "argv", ["benchmarks.emitter"])
    monkeypatch.setattr(benchmark, "Broker", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(benchmark.Benchmark, "run", lose)
    with pytest.raises(SystemExit) as exit_:
        benchmark.main()
    assert exit_.value.code == 1
    out, err = capsys.readouterr()
    result = json.loads(out.splitlines()[-1])
    assert (result["emit_p50_us"], result["emit_p99_us"], result["events_per_s"]) == (None, None, None)
    assert "2 of 3 arrived" in err


def test_percentiles_are_those_of_the_samples() -> None:
    samples = array("q", range(1_000, 1_002_000, 1_000))  # 1 to 1001 us
    assert benchmark.timings(samples) == {"p50_us": 501, "p99_us": 991, "p999_us": 1_000, "max_us": 1_001}


def test_the_slow_proxy_is_slow() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def echo() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(connection.recv(100))

        thread = threading.Thread(target=echo)
        thread.start()
        with benchmark.slow_proxy(latency_ms=60, bytes_per_s=1e6) as address:
            host, port = address.removeprefix("socks5://").split(":")
            with socket.create_connection((host, int(port)), timeout=10) as client:
                client.sendall(b"\x05\x01\x00")
                assert client.recv(2) == b"\x05\x00"
                port_bytes = server.getsockname()[1].to_bytes(2, "big")
                client.sendall(b"\x05\x01\x00\x01" + socket.inet_aton("127.0.0.1") + port_bytes)
                assert client.recv(10)[1] == 0
                begin = time.monotonic()
                client.sendall(b"there and back")
                assert client.recv(100) == b"there and back"
                assert time.monotonic() - begin >= 0.12
        thread.join(10)
