from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from streams import lock
from streams.process import spawn


def test_a_lock_has_one_owner_who_is_named(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lock"
    assert not lock.held(path)
    owned = lock.acquire(path)
    assert lock.held(path)
    with pytest.raises(lock.InUseError) as caught:
        lock.acquire(path)
    assert caught.value.pid == os.getpid()
    lock.release(owned)
    assert not lock.held(path)
    lock.release(lock.acquire(path))


def test_a_lock_of_a_process_that_ended_is_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = f"from pathlib import Path; from streams import lock; lock.acquire(Path({str(path)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert path.read_text().strip().isdigit()
    assert not lock.held(path)
    lock.release(lock.acquire(path))


def test_a_child_that_inherits_it_holds_it_until_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    owned = lock.acquire(path)
    child = spawn(
        [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"],
        log=tmp_path / "child.log",
        keep=(owned,),
    )
    lock.release(owned)
    assert lock.held(path)
    # As after a crash of the owner: its number is nobody's, and its child is about to end.
    path.write_text(f"{2**22 + 1}\n")
    monkeypatch.setattr(lock, "_LINGER_S", 30.0)
    child.kill()
    lock.release(lock.acquire(path))
    child.wait()
