"""A test that needs a broker fails where there can be none, unless it is told to skip."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run_without_a_cache(tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "file"
    file.touch()  # a directory cannot be made in it
    needy = tmp_path / "test_needy.py"
    needy.write_text("import pytest\n\n@pytest.mark.kafka\ndef test_needy():\n    pass\n")
    arguments = ["-p", "no:cacheprovider", "-p", "tests.conftest", "-c", str(ROOT / "pyproject.toml")]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, *options, str(needy)],
        cwd=ROOT,
        env=os.environ | {"GATEWATCH_CACHE": str(file / "cache")},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(("options", "outcome"), [((), "1 error"), (("--without-kafka",), "1 skipped")])
def test_a_lack_of_jars_is_skipped_only_when_asked_for(
    tmp_path: Path, options: tuple[str, ...], outcome: str
) -> None:
    done = run_without_a_cache(tmp_path, *options)
    assert outcome in done.stdout, done.stdout + done.stderr
    assert "no Kafka broker: the cache " in done.stdout
    assert (done.returncode == 0) == bool(options)


def test_preparing_says_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    done = subprocess.run(
        [sys.executable, "-m", "streams.broker", "--prepare"],
        cwd=ROOT,
        env=os.environ | {"GATEWATCH_CACHE": str(file / "cache")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("gatewatch: the cache ")
