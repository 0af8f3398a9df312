"""docs/spend.md: its Python runs, and its sessions answer what the page says, on the events above them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import typer
from typer.testing import CliRunner

from gatewatch.cli import infrastructure, query, savings, what_if
from gatewatch.events import Reject, decode_line
from sinks.schema import STORE, TABLES
from streams.process import end
from tests.sinks.conftest import RunningEngine, start_store
from tests.stored import store

PAGE: Final = (Path(__file__).resolve().parents[2] / "docs" / "spend.md").read_text("utf-8")
CODE: Final = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
SECTIONS: Final = {
    text.partition("\n")[0]: text
    for text in re.split(r"^## ", PAGE, flags=re.MULTILINE)
    if "```ndjson" in text
}
COMMANDS: Final = typer.Typer()
COMMANDS.add_typer(infrastructure.commands, name="infrastructure")
for name, module in {"savings": savings, "what-if": what_if, "query": query}.items():
    COMMANDS.command(name)(module.command)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    engine = start_store(tmp_path_factory.mktemp("spend"))
    yield engine
    assert end(engine.process, 30)


@pytest.mark.parametrize("section", SECTIONS)
def test_a_session_on_the_page_answers_what_the_page_says(running: RunningEngine, section: str) -> None:
    lines = re.findall(r"^```ndjson\n(.*?)^```$", SECTIONS[section], flags=re.MULTILINE | re.DOTALL)[0]
    events = [decode_line(line.encode()) for line in lines.splitlines()]
    sink = running.sink()
    for table in TABLES:
        sink.command(f"TRUNCATE TABLE {STORE}.{table.name}")
    store(sink, *[event for event in events if not isinstance(event, Reject)])
    assert len(sink.rows("SELECT call_id FROM gatewatch.calls")) == lines.count('"kind": "call"')
    sink.close()
    session = re.findall(r"^```console\n(.*?)^```$", SECTIONS[section], flags=re.MULTILINE | re.DOTALL)[0]
    asked = re.findall(r"^\$ gatewatch (.*)\n((?:(?!\$ ).*\n)*)", session, flags=re.MULTILINE)
    assert len(asked) >= 2
    for command, said in asked:
        done = CliRunner().invoke(COMMANDS, [*shlex.split(command), "--data", str(running.data)])
        assert done.exit_code == 0, done.stderr
        if said:
            assert done.stdout == said


def test_both_sections_have_a_session() -> None:
    assert list(SECTIONS) == ["Savings", "Self-hosted models"]


def test_python_on_the_page_runs() -> None:
    assert len(CODE) == 1
    exec(compile(CODE[0], "docs/spend.md", "exec"), {})
