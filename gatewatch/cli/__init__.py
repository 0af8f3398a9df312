"""The command line: a table of contents, one module a command.

A command's module imports the pipeline inside its functions only: `gatewatch --help` and the
filters start fast, and the wheel, which holds no pipeline, still has its filters.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Final, NoReturn

FILTERS: Final = {
    # command -> module that has `command`, a function, or `commands`, a Typer group
    "usage": "gatewatch.cli.usage",
    "price": "gatewatch.cli.price",
}

PIPELINE: Final = {
    "up": "gatewatch.cli.up",
    "demo": "gatewatch.cli.demo",
    "broker": "gatewatch.cli.broker",
    "engine": "gatewatch.cli.engine",
    "worker": "gatewatch.cli.worker",
    "migrate": "gatewatch.cli.migrate",
    "query": "gatewatch.cli.query",
    "doctor": "gatewatch.cli.doctor",
    "replay": "gatewatch.cli.replay",
    "traffic": "gatewatch.cli.traffic",
    "dead-letters": "gatewatch.cli.dead_letters",
    "reprice": "gatewatch.cli.reprice",
    "budgets": "gatewatch.cli.budgets",
    "export": "gatewatch.cli.export",
    "infrastructure": "gatewatch.cli.infrastructure",
    "savings": "gatewatch.cli.savings",
    "what-if": "gatewatch.cli.what_if",
    "prices": "gatewatch.cli.prices",
}


def main() -> None:
    """Run the command line; what the `gatewatch` script calls."""
    try:
        import typer
    except ModuleNotFoundError:
        sys.exit("gatewatch: the command line needs its extra: pip install 'gatewatch[cli]'")
    app = typer.Typer(
        name="gatewatch",
        help="Streaming observability and alerting for LLM inference gateways.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    modules = dict(FILTERS)
    if importlib.util.find_spec("streams"):
        modules |= PIPELINE
    chosen = sys.argv[1] if len(sys.argv) > 1 else ""
    if chosen in PIPELINE and chosen not in modules:
        _needs_pipeline(chosen, "not part of the package")
    if chosen in modules:
        # Only the command that is run is imported: a filter starts in a tenth of the time.
        modules = {chosen: modules[chosen]}
    # Two commands at least, or Typer would make the one the whole program.
    app.callback()(lambda: None)
    try:
        for name, path in modules.items():
            module = importlib.import_module(path)
            if hasattr(module, "commands"):
                app.add_typer(module.commands, name=name)
            else:
                app.command(name)(module.command)
        app()
    except ModuleNotFoundError as error:
        if chosen not in PIPELINE:
            raise
        _needs_pipeline(chosen, f"no package {error.name}")


def _needs_pipeline(command: str, why: str) -> NoReturn:
    print(
        f"gatewatch {command}: {why}: this command needs a checkout of gatewatch and, in it, "
        "pip install -e '.[pipeline,embedded]'",
        file=sys.stderr,
    )
    raise SystemExit(2)
