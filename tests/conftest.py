"""Fixtures that more than one room's tests use."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from streams.artifact import ArtifactError
from streams.broker import Broker
from streams.topic import create_topics

SHARED = Path(__file__).resolve().parents[2] / "shared"

# A test that uses one of these fixtures needs what the marker says, so it need not say it again.
_MARKS: Final = {"broker": "kafka", "engine": "engine"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in _MARKS:
                item.add_marker(_MARKS[fixture])


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real traces and recorded payloads; a stranger's clone has none."""
    path = SHARED / "data"
    if not path.is_dir():
        pytest.skip("../shared/data is not beside this checkout: no recorded data to test against")
    return path


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One Kafka broker for the whole session. Topics are shared: use names of your own.

    A test that stops or kills a broker starts one of its own.
    """
    broker = Broker(tmp_path_factory.mktemp("kafka") / "data")
    try:
        broker.start()
    except ArtifactError as error:
        pytest.skip(f"no Kafka broker: {error}")
    yield broker
    broker.stop()


@pytest.fixture
def topic_name(request: pytest.FixtureRequest) -> Callable[[], str]:
    """Names of topics that no other test uses: each call gives another one."""
    test = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)[:80]
    numbers = itertools.count()
    run = uuid.uuid4().hex[:8]
    return lambda: f"test.{test}.{run}.{next(numbers)}"


@pytest.fixture
def make_topic(broker: Broker, topic_name: Callable[[], str]) -> Callable[[int], str]:
    """Make a topic with so many partitions, configured as the pipeline's are; gives its name."""

    def make(partitions: int) -> str:
        name = topic_name()
        create_topics(broker.bootstrap, {name: partitions})
        return name

    return make
