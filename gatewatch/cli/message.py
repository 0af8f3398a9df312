"""What commands say on standard error, and how they end: 1 for what failed, 2 for wrong usage."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

__all__ = ["CommandError", "fail", "say", "wrong_usage"]


class CommandError(Exception):
    """The command cannot do what it was asked for; the message says why and what to do."""


def say(command: str, message: str) -> None:
    """One line on standard error."""
    print(f"gatewatch {command}: {message}", file=sys.stderr, flush=True)


def fail(command: str, message: str) -> NoReturn:
    """Say what failed, and end with 1."""
    say(command, message)
    raise typer.Exit(1) from None


def wrong_usage(command: str, message: str) -> NoReturn:
    """Say what was wrong, and end with 2."""
    say(command, message)
    raise typer.Exit(2) from None
