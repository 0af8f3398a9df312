"""A whole stack for a test: real broker, real engine, real workers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from streams.stack import Stack
from tests.end_to_end.pipeline import ENVIRONMENT, Pipeline


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Pipeline]]:
    """Start a stack of its own: ``start(workers=1, partitions=4, environment={})``."""
    running: list[Pipeline] = []

    def start(
        workers: int = 1, *, partitions: int = 4, environment: Mapping[str, str] | None = None
    ) -> Pipeline:
        reports: list[str] = []
        stack = Stack(
            tmp_path / f"stack-{len(running)}",
            workers,
            partitions=partitions,
            environment={**ENVIRONMENT, **(environment or {})},
            report=reports.append,
        )
        stack.start()
        pipeline = Pipeline(stack, reports)
        running.append(pipeline)
        return pipeline

    yield start
    for pipeline in running:
        pipeline.close()
        pipeline.stack.stop()
        assert pipeline.stack.failure is None, pipeline.stack.failure


@pytest.fixture
def in_background() -> Iterator[Callable[[Callable[[], None]], threading.Thread]]:
    """Run something in a thread; its error fails the test."""
    threads: list[threading.Thread] = []
    errors: list[BaseException] = []

    def run(work: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=guarded)
        threads.append(thread)
        thread.start()
        return thread

    yield run
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    if errors:
        raise errors[0]
