"""The command line: a table of contents, one module a command.

A command's module imports the pipeline inside its functions only: `gatewatch --help` and the
filters start fast, and the wheel, which holds no pipeline, still has its filters.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Final

FILTERS: Final = {
    # command -> module that has `command`, a function, or `commands`, a Typer group
    "usage": "gatewatch.cli.usage",
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
    if importlib.util.find_spec("streams") and importlib.util.find_spec("faust"):
        modules |= PIPELINE
    if len(sys.argv) > 1 and sys.argv[1] in modules:
        # Only the command that is run is imported: a filter starts in a tenth of the time.
        modules = {sys.argv[1]: modules[sys.argv[1]]}
    # Two commands at least, or Typer would make the one the whole program.
    app.callback()(lambda: None)
    for name, path in modules.items():
        module = importlib.import_module(path)
        if hasattr(module, "commands"):
            app.add_typer(module.commands, name=name)
        else:
            app.command(name)(module.command)
    app()
