"""Queries while they run: found by their identifier, cancelled, watched for clients that leave."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from dataclasses import dataclass, field
from typing import Final

from sinks.embedded import Embedded, EngineError, Session

WRITER: Final = "writer"


@dataclass
class Running:
    """A query while it runs."""

    query_id: str
    user: str
    session: Session
    done: threading.Event = field(default_factory=threading.Event)


class Queries:
    """What runs now: finds a query by its identifier, cancels it, watches its client."""

    def __init__(self, engine: Embedded) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._running: dict[str, Running] = {}
        self._watched: dict[int, Running] = {}
        self._poll = select.epoll() if hasattr(select, "epoll") else None
        if self._poll is not None:
            threading.Thread(target=self._watch, name="disconnects", daemon=True).start()

    def start(self, query_id: str, user: str, session: Session, client: socket.socket | None) -> Running:
        """Register a query; with `client` given, its disconnect cancels the query."""
        running = Running(query_id, user, session)
        with self._lock:
            if query_id in self._running:
                raise EngineError(
                    216,
                    "QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING",
                    f"Query with id = {query_id} is already running.",
                )
            self._running[query_id] = running
            if client is not None and self._poll is not None:
                self._watched[client.fileno()] = running
                self._poll.register(client.fileno(), select.EPOLLRDHUP | select.EPOLLONESHOT)
        return running

    def finish(self, running: Running, client: socket.socket | None) -> None:
        """Forget a query that has ended."""
        with self._lock:
            self._running.pop(running.query_id, None)
            if client is not None and self._poll is not None and client.fileno() in self._watched:
                del self._watched[client.fileno()]
                with contextlib.suppress(OSError):
                    self._poll.unregister(client.fileno())
        running.done.set()

    def kill(self, query_id: str, user: str) -> list[Running]:
        """Cancel a query by its identifier; `reader` reaches readers' queries only."""
        with self._lock:
            running = self._running.get(query_id)
            if running is None or (user != WRITER and running.user != user):
                return []
            # Under the lock: the session cannot go on to another query in between.
            self._engine.cancel(running.session)
            return [running]

    def kill_all(self, user: str) -> None:
        """Cancel every query of a user."""
        with self._lock:
            for running in self._running.values():
                if running.user == user:
                    self._engine.cancel(running.session)

    def _watch(self) -> None:
        assert self._poll is not None
        while True:
            for descriptor, _ in self._poll.poll():
                with self._lock:
                    running = self._watched.get(descriptor)
                    if running is not None:
                        self._engine.cancel(running.session)
