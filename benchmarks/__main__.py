"""All benchmarks, one after the other: `make bench`. The last line is one JSON object with their figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

BENCHMARKS: Final = ("emitter", "throughput", "freshness", "pricing", "forecast", "reprice")


def main() -> int:
    """Run each in a process of its own; 1 when one of them failed."""
    figures = {}
    failed = False
    for name in BENCHMARKS:
        print(f"== {name}", flush=True)
        process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{name}"],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        assert process.stdout is not None
        last = ""
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line if line.strip() else last
        if process.wait() == 0:
            figures[name] = json.loads(last)
        else:
            failed = True
    print(json.dumps(figures))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
