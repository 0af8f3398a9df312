"""Fixtures that more than one room's tests use."""

from __future__ import annotations

import functools
import itertools
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import settings
from hypothesis.configuration import set_hypothesis_home_dir

from sinks.clickhouse import Sink
from sinks.migration import migrate
from sinks.schema import STORE, TABLES
from streams.artifact import ArtifactError, HashError, jars
from streams.broker import Broker
from streams.topic import create_topics

SHARED = Path(__file__).resolve().parents[2] / "shared"

# A test that uses one of these fixtures needs what the marker says, so it need not say it again.
_MARKS: Final = {"broker": "kafka", "engine": "engine", "sink": "engine"}

# The same examples in every run: what fails, fails again, and nothing is kept between runs.
settings.register_profile("gatewatch", derandomize=True, database=None, deadline=None)
settings.load_profile("gatewatch")
# Hypothesis keeps constants of the code under test, too: not in the checkout.
_HYPOTHESIS: Final = tempfile.TemporaryDirectory(prefix="gatewatch-hypothesis-")
set_hypothesis_home_dir(_HYPOTHESIS.name)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--without-kafka",
        action="store_true",
        help="skip tests that need a Kafka broker where its jars cannot be had; else they fail",
    )


def pytest_unconfigure() -> None:
    _HYPOTHESIS.cleanup()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in _MARKS:
                item.add_marker(_MARKS[fixture])


@functools.cache
def _no_jars() -> ArtifactError | None:
    """Why the broker's jars cannot be had; asked once, for the answer may take a minute."""
    try:
        jars()
    except ArtifactError as error:
        return error
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("kafka") and (error := _no_jars()) is not None:
        # A test that silently proves nothing is worse than one that fails; a wrong jar is no lack of network.
        if item.config.getoption("--without-kafka") and not isinstance(error, HashError):
            pytest.skip(f"no Kafka broker: {error}")
        pytest.fail(
            f"no Kafka broker: {error}\n(--without-kafka skips what needs one, unless a jar is a wrong one)",
            pytrace=False,
        )


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
    broker.start()
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


@pytest.fixture(scope="session")
def embedded_sink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sink]:
    """The engine inside this process, migrated. A process can open one directory only, so use this one."""
    sink = Sink(f"chdb://{tmp_path_factory.mktemp('chdb')}")
    migrate(sink)
    # Tests speak of fixed dates: their rows must not expire.
    sink.command("SYSTEM STOP TTL MERGES")
    yield sink
    sink.close()


@pytest.fixture
def sink(embedded_sink: Sink) -> Sink:
    """The engine inside this process, with empty tables."""
    for table in TABLES:
        embedded_sink.command(f"TRUNCATE TABLE {STORE}.{table.name}")
    return embedded_sink
