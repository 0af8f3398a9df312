"""One owner for a directory."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Final

__all__ = ["InUseError", "acquire", "held", "release"]

# What a killed owner started may take a moment to end after it.
_LINGER_S: Final = 5.0


class InUseError(RuntimeError):
    """Another process owns it; ``pid`` is that process, or 0 where unknown."""

    def __init__(self, path: Path, pid: int) -> None:
        super().__init__(f"{path} is held by process {pid or 'unknown'}")
        self.pid = pid


def acquire(path: Path) -> int:
    """Own what this file stands for until :func:`release`, or until the process ends.

    The file holds the owner's process id. A child that inherits the returned descriptor holds the
    lock too: then it is free only when both have let go.

    Returns
    -------
    The descriptor to release.

    Raises
    ------
    InUseError
        Another process owns it.
    OSError
        The file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    deadline = time.monotonic() + _LINGER_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _owner(descriptor)
            # The owner is dead: children that inherited its lock are about to end.
            if owner and not _exists(owner) and time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            os.close(descriptor)
            raise InUseError(path, owner) from None
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        return descriptor


def release(descriptor: int) -> None:
    """Let go of what :func:`acquire` gave."""
    os.close(descriptor)


def held(path: Path) -> bool:
    """Whether somebody owns it at the moment."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _owner(descriptor: int) -> int:
    text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
    return int(text) if text.isdigit() else 0


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
