"""The broker's jars: fetched once, checked against hashes in this repository, then kept.

``broker.lock`` beside this file names every jar with its SHA-256. Nothing else is ever put on the
class path: a jar that does not match is thrown away. ``python -m streams.artifact`` resolves the
version named in :data:`KAFKA` anew and prints a new lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Final, NamedTuple

__all__ = ["KAFKA", "ArtifactError", "HashError", "Jar", "cache_directory", "jars", "missing", "resolve"]

KAFKA: Final = "4.1.1"
"""Version of Apache Kafka that the embedded broker runs."""

# Kafka logs through SLF4J, and its own archive adds this binding; its POM does not.
_ROOTS: Final = (
    f"org.apache.kafka:kafka_2.13:{KAFKA}",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.24.3",
)
_LOCK: Final = Path(__file__).with_name("broker.lock")
_DOWNLOADS: Final = 4
SCRATCH: Final = ".scratch-"
"""What a folder is named that an interrupted download or first run may leave in the cache."""
_TIMEOUT_S: Final = 60


class ArtifactError(RuntimeError):
    """The jars cannot be had; the message says why and what to do."""


class HashError(ArtifactError):
    """A jar was downloaded and is not the one that the lock names."""


class Jar(NamedTuple):
    """One line of the lock."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file(self) -> str:
        """Name of its file in the cache."""
        return f"{self.artifact}-{self.version}.jar"


def cache_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Where downloads are kept: GATEWATCH_CACHE, or gatewatch's folder of the user's cache."""
    if chosen := environment.get("GATEWATCH_CACHE"):
        return Path(chosen).expanduser()
    base = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "gatewatch"


def locked() -> list[Jar]:
    """The jars that the lock names."""
    lines = (line for line in _LOCK.read_text("utf-8").splitlines() if line and line[0] != "#")
    # group:artifact:version SHA-256
    return [Jar(*line.replace(":", " ").split()) for line in lines]


def directory(cache: Path) -> Path:
    """The folder of the jars within a cache."""
    return cache / f"kafka-{KAFKA}"


def missing(cache: Path) -> list[Jar]:
    """Jars that a start of the broker would have to download.

    A jar enters the cache under its name only after its hash was checked, so here its presence is
    enough: hashing 45 MB again would cost every start a tenth of a second.
    """
    return [jar for jar in locked() if not (directory(cache) / jar.file).is_file()]


def jars(cache: Path | None = None) -> list[Path]:
    """The broker's class path; downloads what the cache does not hold.

    Raises
    ------
    ArtifactError
        A jar cannot be downloaded.
    HashError
        A jar is not the one that the lock names.
    """
    cache = cache_directory() if cache is None else cache
    home = directory(cache)
    if missing(cache):
        try:
            home.mkdir(parents=True, exist_ok=True)
            lock = (home / ".lock").open("w")
        except OSError as error:
            raise ArtifactError(
                f"the cache {cache} cannot be written ({error.strerror}); "
                "set GATEWATCH_CACHE to a directory that can"
            ) from error
        with lock:
            # Two starts at the same time: the second waits and finds the jars.
            fcntl.flock(lock, fcntl.LOCK_EX)
            for abandoned in home.glob(f"{SCRATCH}*"):
                shutil.rmtree(abandoned, ignore_errors=True)
            _download(missing(cache), home)
    return [home / jar.file for jar in locked()]


def _download(wanted: list[Jar], home: Path) -> None:
    if not wanted:
        return
    with (
        tempfile.TemporaryDirectory(prefix=SCRATCH, dir=home) as scratch,
        _progress(len(wanted)) as tick,
    ):
        context = _context(Path(scratch))
        pool = ThreadPoolExecutor(_DOWNLOADS, thread_name_prefix="gatewatch-download")
        try:
            downloads = {pool.submit(_fetch, context, jar): jar for jar in wanted}
            for download in as_completed(downloads):
                jar = downloads[download]
                try:
                    path = download.result()
                except Exception as error:
                    raise ArtifactError(
                        f"{jar.file} of Apache Kafka {KAFKA} cannot be downloaded ({_reason(error)}). "
                        f"The first start needs the network (45 MB from a Maven repository); on a machine "
                        f"without it, copy {home} from one that has it, or set GATEWATCH_CACHE to such a copy"
                    ) from error
                with path.open("rb") as file:
                    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                if sha256 != jar.sha256:
                    raise HashError(
                        f"{jar.file} is not the file that gatewatch was built against: SHA-256 {sha256}, "
                        f"expected {jar.sha256}. It was thrown away; check the Maven repository or proxy"
                    )
                path.replace(home / jar.file)
                tick(jar.file)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _context(repository: Path) -> Any:
    try:
        from jgo.maven import MavenContext, PythonResolver
    except ModuleNotFoundError as error:
        raise ArtifactError("the broker's jars are fetched with jgo: pip install -e '.[embedded]'") from error

    return MavenContext(repo_cache=repository, resolver=PythonResolver(), timeout=_TIMEOUT_S)


def _fetch(context: Any, jar: Jar) -> Path:
    artifact = context.project(jar.group, jar.artifact).at_version(jar.version).artifact()
    return Path(artifact.resolve())


def _reason(error: BaseException) -> str:
    # requests wraps the socket's error several times, and only the innermost says something.
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    text = str(error).splitlines()[0] if str(error) else ""
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    """Progress of a download on a terminal, one line anywhere else."""
    print(f"gatewatch: downloading Apache Kafka {KAFKA} once ({total} files, 45 MB)", file=sys.stderr)
    if not sys.stderr.isatty():
        yield lambda name: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Apache Kafka", total=total)
        yield lambda name: bar.update(task, advance=1, description=name)


def resolve() -> list[Jar]:
    """Resolve :data:`KAFKA` and what it needs from its POMs: what a new lock would say."""
    with tempfile.TemporaryDirectory() as scratch:
        context = _context(Path(scratch))
        found: dict[tuple[str, str], Jar] = {}
        # One by one: resolved together, the managed versions of one root would change the other's.
        for root in _ROOTS:
            inputs, transitive = context.resolver.resolve([context.create_dependency(f"{root}:compile")])
            for dependency in [*inputs, *transitive]:
                key = dependency.groupId, dependency.artifactId
                if dependency.type != "jar" or key in found:
                    continue
                jar = Jar(*key, dependency.version, "")
                with _fetch(context, jar).open("rb") as file:
                    found[key] = jar._replace(sha256=hashlib.file_digest(file, "sha256").hexdigest())
    return sorted(found.values())


def main() -> None:
    """Print a new lock."""
    print(f"# Apache Kafka {KAFKA} and what it needs: group:artifact:version SHA-256.")
    print("# Written by: python -m streams.artifact > streams/broker.lock")
    for jar in resolve():
        print(f"{jar.group}:{jar.artifact}:{jar.version} {jar.sha256}")


if __name__ == "__main__":
    main()
