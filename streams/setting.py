"""The settings: each declared once, with its environment variable, default, unit and meaning.

The declaration is a field of :class:`Settings`; ``docs/settings.md`` and the messages of errors
are made from it. Processes are configured by their environment alone, so that the same worker runs
from ``gatewatch up``, from a unit file and from ``docker-compose.yml``.
"""

from __future__ import annotations

import dataclasses
import difflib
import hmac
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, TypeVar
from urllib.parse import urlsplit

from gatewatch.events import EVENTS_TOPIC

# Of all of signals this module needs no numpy: `gatewatch doctor` runs without it.
from signals.signal import SERIES_LIMIT_MOST

__all__ = ["Secret", "Setting", "SettingError", "Settings", "declarations", "markdown"]

PREFIX: Final = "GATEWATCH_"


class SettingError(ValueError):
    """A setting cannot be read; the message says which, what was wrong and what to do."""


class Secret:
    """A string that no log, error or ``repr`` shows; :meth:`reveal` gives it to the client that needs it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The plain string."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "Secret('***')" if self._text else "Secret('')"

    __str__ = __repr__

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError("a secret is not written anywhere; pass it by environment")


T = TypeVar("T")


class Kind(NamedTuple, Generic[T]):
    """How a value is written in the environment."""

    name: str
    read: Callable[[str], T]
    write: Callable[[T], str] = str


class Setting(NamedTuple):
    """One declared setting."""

    name: str
    variable: str
    kind: str
    default: str
    unit: str
    description: str
    secret: bool


def _number(least: float, most: float) -> Kind[float]:
    def read(text: str) -> float:
        number = float(text)
        if not least <= number <= most:
            raise ValueError(f"must be from {least:g} to {most:g}")
        return number

    return Kind(f"number, {least:g} to {most:g}", read, lambda value: repr(value).removesuffix(".0"))


def _integer(least: int, most: int) -> Kind[int]:
    def read(text: str) -> int:
        number = int(text)
        if not least <= number <= most:
            raise ValueError(f"must be from {least} to {most}")
        return number

    return Kind(f"integer, {least} to {most}", read)


def _word(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text.strip()


def _url(text: str) -> str:
    parts = urlsplit(text.strip())
    _ = parts.port  # raises where it is no number
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be http://HOST:PORT or https://HOST:PORT")
    if parts.username or parts.password:
        raise ValueError(
            "must not hold a user or password; "
            "use GATEWATCH_CLICKHOUSE_USER and GATEWATCH_CLICKHOUSE_PASSWORD"
        )
    return text.strip().rstrip("/")


def _servers(text: str) -> str:
    servers = [server.strip() for server in text.split(",")]
    for server in servers:
        host, _, port = server.rpartition(":")
        if not host or not port.isdigit() or "/" in host:
            raise ValueError("must be HOST:PORT, or several of them separated by commas")
    return ",".join(servers)


WORD: Final = Kind("text", _word)
URL: Final = Kind("URL", _url)
SERVERS: Final = Kind("HOST:PORT, ...", _servers)
DIRECTORY: Final = Kind("directory", lambda text: Path(_word(text)).expanduser())
SECRET: Final = Kind("secret", Secret, lambda value: "")


def _setting(kind: Kind[T], default: T, description: str, *, unit: str = "") -> T:
    return field(default=default, metadata={"kind": kind, "unit": unit, "description": description})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that can be set. The variable of ``flush_interval_s`` is GATEWATCH_FLUSH_INTERVAL_S."""

    kafka: str = _setting(SERVERS, "localhost:9092", "Kafka's bootstrap servers.")
    events_topic: str = _setting(WORD, EVENTS_TOPIC, "Topic that events are read from.")
    consumer_group: str = _setting(
        WORD, "gatewatch", "Consumer group of the workers. Workers with the same group share the partitions."
    )
    clickhouse_url: str = _setting(
        URL, "http://localhost:8123", "ClickHouse's HTTP interface: a server, or the embedded engine."
    )
    clickhouse_user: str = _setting(WORD, "writer", "ClickHouse user of the workers and of migrations.")
    clickhouse_password: Secret = _setting(  # noqa: RUF009 - a field
        SECRET, Secret(""), "Its password. Never logged; `gatewatch up` makes a random one."
    )
    flush_interval_s: float = _setting(
        _number(0.05, 60),
        1.0,
        "Rows wait at most this long before they are inserted. Shorter is fresher and costs more merging.",
        unit="s",
    )
    chunk_records: int = _setting(
        _integer(1, 100_000),
        1000,
        "Records of a chunk, the unit of aggregation and acknowledgement. A constant of the source: it is "
        "recorded with the data, and a worker that is given another number refuses to start.",
        unit="records",
    )
    grace_s: float = _setting(
        _number(0, 86_400), 60.0, "How long a window waits for late events before it is judged.", unit="s"
    )
    max_event_age_days: float = _setting(
        _number(0.01, 3650),
        7.0,
        "An event older than this when Kafka received it is rejected.",
        unit="days",
    )
    max_clock_skew_s: float = _setting(
        _number(0, 86_400),
        300.0,
        "An event further ahead than this of the time when Kafka received it is rejected.",
        unit="s",
    )
    series_limit: int = _setting(
        _integer(1, SERIES_LIMIT_MOST),
        2000,
        "Series that a chunk keeps apart; further ones are counted together as `__other__`.",
        unit="series",
    )
    pending_bytes: int = _setting(
        _integer(1 << 20, 1 << 34),
        64 << 20,
        "Rows that a worker holds in memory while ClickHouse does not take them; then it stops reading.",
        unit="bytes",
    )
    session_timeout_s: float = _setting(
        _number(1, 600),
        30.0,
        "A worker that Kafka has not heard of for so long is taken for dead; its partitions go to others. "
        "Within the broker's group.min.session.timeout.ms and group.max.session.timeout.ms.",
        unit="s",
    )
    stalled_s: float = _setting(
        _number(1, 3600),
        60.0,
        "`/healthz` fails when records have waited so long and none was stored.",
        unit="s",
    )
    metrics_host: str = _setting(WORD, "127.0.0.1", "Address that /metrics and /healthz listen on.")
    metrics_port: int = _setting(
        _integer(0, 65_535), 0, "Port of /metrics and /healthz; 0 is off.", unit="port"
    )
    data_dir: Path = _setting(  # noqa: RUF009 - a field
        DIRECTORY,
        Path("gatewatch-data"),
        "Directory for what a process keeps: state of Faust, the embedded stack.",
    )

    @classmethod
    def from_environment(cls, env: Mapping[str, str] = os.environ) -> Settings:
        """Read the settings; what is not set, or set to nothing, has its default.

        Raises
        ------
        SettingError
            A variable cannot be read, or begins with GATEWATCH_ and is not known: a misspelt
            setting would otherwise be silently without effect.
        """
        values: dict[str, Any] = {}
        unknown = {
            name
            for name in env
            if name.startswith(PREFIX) and name not in OTHER_VARIABLES and not _SERVICE_LINK.search(name)
        }
        for part in dataclasses.fields(cls):
            variable = variable_of(part.name)
            unknown.discard(variable)
            text = env.get(variable, "")
            if not text:
                continue
            kind: Kind[Any] = part.metadata["kind"]
            try:
                values[part.name] = kind.read(text)
            except ValueError as error:
                raise SettingError(_complaint(variable, kind, text, error)) from None
        unknown = {name for name in unknown if not env[name].startswith(("tcp://", "udp://"))}
        if unknown:
            raise SettingError(_unknown(sorted(unknown)))
        return cls(**values)

    def to_environment(self) -> dict[str, str]:
        """The variables that make another process read the same settings. Holds the password."""
        environment = {}
        for part in dataclasses.fields(self):
            value = getattr(self, part.name)
            kind: Kind[Any] = part.metadata["kind"]
            environment[variable_of(part.name)] = (
                value.reveal() if isinstance(value, Secret) else kind.write(value)
            )
        return environment


OTHER_VARIABLES: Final[Mapping[str, tuple[str, str, str]]] = {
    "GATEWATCH_CACHE": (
        "directory",
        "",
        "Directory of downloads; `$XDG_CACHE_HOME/gatewatch` or `~/.cache/gatewatch` when not set.",
    ),
    "GATEWATCH_WRITER_PASSWORD": (
        "secret",
        "",
        "`docker-compose.yml`: password of the ClickHouse user `writer`.",
    ),
    "GATEWATCH_READER_PASSWORD": (
        "secret",
        "",
        "Password of the ClickHouse user `reader`, for `docker-compose.yml`, `gatewatch query` and `doctor`. "
        "The embedded engine needs it as soon as it listens beyond loopback.",
    ),
    "GATEWATCH_KAFKA_PORT": ("port", "9094", "`docker-compose.yml`: Kafka's port on 127.0.0.1."),
    "GATEWATCH_CLICKHOUSE_PORT": ("port", "8123", "`docker-compose.yml`: ClickHouse's port on 127.0.0.1."),
}
"""Variables that are read without :class:`Settings`: type, default and meaning."""


# Kubernetes describes a service named gatewatch-x by variables such as GATEWATCH_X_SERVICE_HOST and
# GATEWATCH_X_PORT_80_TCP_ADDR: they come with the pod, and nobody has misspelt anything.
_SERVICE_LINK: Final = re.compile(r"_SERVICE_(HOST|PORT)(_[A-Z0-9_]+)?$|_PORT_\d+_(TCP|UDP)(_[A-Z]+)?$")


def variable_of(name: str) -> str:
    """The environment variable of a field."""
    return PREFIX + name.upper()


def declarations() -> list[Setting]:
    """All settings in the order of their declaration."""
    found = []
    for part in dataclasses.fields(Settings):
        kind: Kind[Any] = part.metadata["kind"]
        found.append(
            Setting(
                name=part.name,
                variable=variable_of(part.name),
                kind=kind.name,
                default=kind.write(part.default),
                unit=part.metadata["unit"],
                description=part.metadata["description"],
                secret=kind is SECRET,
            )
        )
    return found


def markdown() -> str:
    """The page ``docs/settings.md``."""
    lines = [
        "# Settings",
        "",
        "Workers, migrations and the command line are configured by environment variables. An unknown",
        "variable that begins with `GATEWATCH_` is an error, and so is a value that cannot be read. An empty",
        "one counts as not set.",
        "",
        "| Variable | Type | Default | Unit | Meaning |",
        "|---|---|---|---|---|",
    ]
    for setting in declarations():
        default = f"`{setting.default}`" if setting.default else "none"
        lines.append(
            f"| `{setting.variable}` | {setting.kind} | {default} | {setting.unit} | {setting.description} |"
        )
    for variable, (kind, default, description) in OTHER_VARIABLES.items():
        lines.append(
            f"| `{variable}` | {kind} | {f'`{default}`' if default else 'none'} |  | {description} |"
        )
    return "\n".join(lines) + "\n"


def _complaint(variable: str, kind: Kind[Any], text: str, error: ValueError) -> str:
    reason = str(error)
    # int() and float() quote the text in words that say nothing to who set it.
    if reason.startswith(("invalid literal", "could not convert")):
        reason = f"must be {'an' if kind.name[0] in 'aeiou' else 'a'} {kind.name}"
    # What stands before an @ may be a password in the wrong place.
    shown = "" if kind is SECRET or "@" in text else f"={text[:80]!r}"
    return f"{variable}{shown} {reason}"


def _unknown(names: list[str]) -> str:
    known = [setting.variable for setting in declarations()]
    hints = []
    for name in names:
        close = difflib.get_close_matches(name, known, n=1)
        hints.append(f"{name} (did you mean {close[0]}?)" if close else name)
    return f"unknown settings: {', '.join(hints)}; known ones are in docs/settings.md"
