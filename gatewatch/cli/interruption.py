"""Ctrl-C in commands that run a stack: it is asked for, and everything is stopped in order."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from streams.stack import Stack

_POLL_S: Final = 0.2


@contextlib.contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """An event that Ctrl-C, SIGTERM and a closed terminal set. A second one ends the process at once.

    Then nothing is stopped cleanly, but nothing survives either: the parts end with this process.
    """
    asked = threading.Event()

    def hear(number: int, frame: object) -> None:
        if asked.is_set():
            os._exit(128 + number)
        asked.set()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, hear) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def start(stack: Stack, asked: threading.Event) -> bool:
    """Start a stack; False when it was asked to stop before that was done, and has stopped.

    Raises
    ------
    StackError
        It cannot start. Nothing is left running then.
    """
    problem: list[BaseException] = []

    def run() -> None:
        try:
            stack.start()
        except BaseException as error:
            problem.append(error)

    # In a thread, so that Ctrl-C is heard while it starts.
    starter = threading.Thread(target=run, name="gatewatch-start", daemon=True)
    starter.start()
    while starter.is_alive() and not asked.is_set():
        starter.join(_POLL_S)
    if asked.is_set():
        stack.stop()
        starter.join()
        return False
    if problem:
        raise problem[0]
    return True
