"""`gatewatch worker`: read events, write rows, until told to stop."""

from __future__ import annotations

import logging
import sys


def command() -> None:
    """Run one worker. It is configured by GATEWATCH_... variables alone (docs/settings.md)."""
    from streams.setting import SettingError, Settings
    from streams.worker import run

    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    for chatty in ("faust", "mode", "aiokafka", "kafka"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        settings = Settings.from_environment()
    except SettingError as error:
        print(f"gatewatch worker: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(run(settings))
