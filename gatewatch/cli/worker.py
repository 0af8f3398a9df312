"""`gatewatch worker`: read events, write rows, until told to stop."""

from __future__ import annotations

import sys


def command() -> None:
    """Run one worker. It is configured by GATEWATCH_... variables alone (docs/settings.md)."""
    from streams import log
    from streams.setting import SettingError, Settings
    from streams.worker import run

    log.configure()
    try:
        settings = Settings.from_environment()
    except SettingError as error:
        print(f"gatewatch worker: {error}", file=sys.stderr)
        sys.exit(2)
    run(settings)
