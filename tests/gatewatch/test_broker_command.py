"""`gatewatch broker`: it says when it is ready, serves, and ends when asked to."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from streams.broker import answers


@pytest.mark.kafka
def test_the_broker_command_serves_and_stops(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "gatewatch.cli", "broker", "--data", str(tmp_path / "kafka")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("ready 127.0.0.1:"), line
        port = int(line.rpartition(":")[2])
        assert answers(port)
        process.send_signal(signal.SIGTERM)
        out, said = process.communicate(timeout=40)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, out, said) == (0, "", "")
    assert not answers(port)


def test_a_wrong_option_is_wrong_usage() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gatewatch.cli", "broker"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "--data" in done.stderr
