"""What a gateway installs and imports, and what the command line says where something is missing."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code as a stranger would: no variables of Python, no working directory on the path."""
    return subprocess.run(
        [sys.executable, "-I", "-c", code, *arguments], capture_output=True, text=True, timeout=60
    )


def command_line(missing: tuple[str, ...], *arguments: str) -> subprocess.CompletedProcess[str]:
    """`gatewatch` where packages are not installed."""
    code = f"""\
import importlib.util, sys
missing = {missing!r}
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in missing:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in missing else find_spec(name, package)
sys.meta_path.insert(0, Missing())
sys.argv[0] = 'gatewatch'
from gatewatch.cli import main
main()
"""
    return python(code, *arguments)


def test_an_import_brings_msgspec_and_starts_nothing() -> None:
    done = python(
        "import sys, json, threading\n"
        # msgspec takes it where it is installed, and does without where it is not.
        "sys.modules['typing_extensions'] = None\n"
        "before = set(sys.modules)\n"
        "import gatewatch\n"
        "names = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(json.dumps([sorted(names - sys.stdlib_module_names), threading.active_count()]))\n"
    )
    assert done.returncode == 0, done.stderr
    modules, threads = json.loads(done.stdout)
    assert set(modules) == {"gatewatch", "msgspec"}
    assert threads == 1


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    information = wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info/"
    assert "gatewatch/__init__.py" in names
    # Prices travel with the package: nothing is fetched where it runs.
    assert {"gatewatch/price_data/genai_prices.json", "gatewatch/price_data/declared.toml"} <= set(names)
    assert [name for name in names if not name.startswith(("gatewatch/", information))] == []
    assert [name for name in names if name.endswith(".pth")] == []


def test_without_typer_the_command_line_names_its_extra() -> None:
    done = command_line(("typer",), "usage")
    assert done.returncode == 1
    assert done.stderr == ("gatewatch: the command line needs its extra: pip install 'gatewatch[cli]'\n")


def test_without_the_pipeline_there_are_the_filters_only() -> None:
    shown = command_line(("streams",), "--help")
    assert shown.returncode == 0, shown.stderr
    assert "usage" in shown.stdout
    for name in ("demo", "migrate", "dead-letters"):
        assert name not in shown.stdout


@pytest.mark.parametrize(
    ("missing", "why"),
    [("streams", "not part of the package"), ("clickhouse_connect", "no package clickhouse_connect")],
)
def test_a_command_of_the_pipeline_says_what_it_needs(missing: str, why: str) -> None:
    done = command_line((missing,), "migrate")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"gatewatch migrate: {why}: this command needs a checkout of gatewatch and, in it, "
        "pip install -e '.[pipeline,embedded]'\n"
    )


@pytest.mark.parametrize("name", ["usage", "price"])
def test_a_filter_needs_no_pipeline(name: str) -> None:
    done = command_line(("streams", "faust", "clickhouse_connect", "numpy", "genai_prices"), name, "--help")
    assert done.returncode == 0, done.stderr
