"""`gatewatch dead-letters`: lines that were no events: list them, look at them, send them again."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gatewatch.cli.connection import failures_said, moment_ms
from gatewatch.cli.message import fail, say, wrong_usage
from gatewatch.cli.row import PipeOutput, encoded, is_json, iso_text, print_rows, visible

if TYPE_CHECKING:
    from sinks.dead_letter import DeadLetterFilter, ReasonCount, StoredLetter
    from streams.dead_letter import Address, DeadLetters, Outcome, Shown

commands = typer.Typer(
    no_args_is_help=True,
    help="Lines that were no events, each kept with the reason: list, show and send them again.",
)

_NAME: Final = "dead-letters"
_NOTHING: Final = "no dead letters"
_SHOWN_REFUSALS: Final = 20
"""More are counted: --json writes them all."""


Data = Annotated[
    Path | None,
    typer.Option(
        help="Those of the `gatewatch up` of this directory, not of the GATEWATCH_... variables.",
        show_default=False,
    ),
]
Reasons = Annotated[
    list[str] | None,
    typer.Option("--reason", help="Only with this reason; may be repeated.", show_default=False),
]
Since = Annotated[
    str | None,
    typer.Option(
        help="Only what Kafka received since: an age such as 24h, or a date (UTC).", show_default=False
    ),
]


@commands.command("list")
def list_(
    reason: Reasons = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="So many, the newest ones.")] = 100,
    all_: Annotated[bool, typer.Option("--all", help="Also those that have been sent again since.")] = False,
    summary: Annotated[
        bool, typer.Option("--summary", help="Count them by reason; --limit does not apply.")
    ] = False,
    output: PipeOutput = None,
    data: Data = None,
) -> None:
    """List dead letters, the newest first, without their contents.

    Example: gatewatch dead-letters list --reason invalid_event --since 24h
    """
    from sinks.dead_letter import count_reasons

    wanted = _filter(reason, since, all_)
    as_json = is_json(output)
    with _letters(data) as (letters, sink):
        if summary:
            reasons = [_reason_row(count) for count in count_reasons(sink, wanted)]
            print_rows(reasons, as_json, _NOTHING)
            return
        found = letters.find(wanted, limit=limit, newest_first=True)
        print_rows([_letter_row(address, letter) for address, letter in found], as_json, _NOTHING)
        if len(found) == limit:
            say(_NAME, f"these are the newest {limit}; --limit shows more, --summary counts all")


@commands.command()
def show(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="TOPIC/PARTITION/OFFSET/LINE")],
    json_lines: Annotated[
        bool,
        typer.Option("--json", help="A JSON object for each, in the form that `replay --file` reads."),
    ] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Only the line's bytes, as they came; one ID.")] = False,
    data: Data = None,
) -> None:
    """Show dead letters with the bytes of their lines.

    This is the one command that shows what a line holds, which can be a prompt or a secret. Control
    characters are escaped, except with --raw. Lines longer than the 64 KiB that are stored are read
    from Kafka, as long as it has them.

    Example: gatewatch dead-letters show --json gatewatch.events.v1/0/17/3
    """
    from streams.dead_letter import DeadLetterError, parse_address

    if raw and (json_lines or len(ids) != 1):
        wrong_usage(_NAME, "--raw writes the bytes of one line and nothing else: give one ID, without --json")
    addresses = []
    for text in ids:
        try:
            addresses.append(parse_address(text))
        except ValueError as error:
            wrong_usage(_NAME, str(error))
    failed = False
    with _letters(data) as (letters, _):
        for index, address in enumerate(addresses):
            try:
                shown = letters.show(address)
            except DeadLetterError as error:
                say(_NAME, str(error))
                failed = True
                continue
            if raw:
                sys.stdout.buffer.write(shown.value)
                sys.stdout.buffer.flush()
            elif json_lines:
                print(_as_json(shown), flush=True)
            else:
                print(("\n" if index else "") + _as_text(shown), flush=True)
            if shown.missing:
                say(_NAME, f"{shown.address}: only the beginning of the line: {shown.missing}")
                failed = True
    if failed:
        raise typer.Exit(1)


@commands.command()
def replay(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID...]", help="TOPIC/PARTITION/OFFSET/LINE")
    ] = None,
    reason: Reasons = None,
    all_: Annotated[bool, typer.Option("--all", help="All that have not been sent again.")] = False,
    since: Since = None,
    file: Annotated[
        str | None,
        typer.Option(
            help='Send other lines instead: JSON lines {"id": ..., "line": an object, or a string}, as '
            "`show --json` writes them; - is standard input.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be sent and what would be refused.")
    ] = False,
    json_lines: Annotated[
        bool, typer.Option("--json", help="Write what became of each as a JSON object.")
    ] = False,
    data: Data = None,
) -> None:
    """Send dead letters again, each once: as they are, or repaired.

    As they are makes sense after the workers were upgraded or their limits changed.
    A line that still is no event is refused here, the others are sent, and the command ends with 1.

    Example: gatewatch dead-letters replay --file repaired.ndjson
    """
    from streams.dead_letter import DeadLetterError

    ways = sum((bool(ids), bool(reason) or all_, file is not None))
    if ways != 1 or (reason and all_):
        wrong_usage(_NAME, "say which to send, in one way: IDs, --reason, --all, or --file")
    if since is not None and not (reason or all_):
        wrong_usage(_NAME, "--since goes with --reason or --all")
    wanted: list[tuple[str, bytes | None]]
    wanted = _repaired(file) if file is not None else [(text, None) for text in ids or ()]
    with _letters(data) as (letters, _):
        if reason or all_:
            found = letters.find(_filter(reason, since, False))
            wanted = [(str(address), None) for address, _ in found]
        tally: dict[str, int] = {}
        refusals = 0
        problem: str | None = None
        try:
            for outcome in letters.replay(wanted, dry_run=dry_run):
                tally[outcome.result] = tally.get(outcome.result, 0) + 1
                if json_lines:
                    print(encoded(outcome), flush=True)
                elif not outcome.is_well or outcome.detail:
                    refusals += 1
                    _report(outcome, refusals)
        except DeadLetterError as error:
            problem = str(error)
    said = (
        ", ".join(f"{count} {_WORDS[result]}" for result, count in sorted(tally.items())) or "nothing to send"
    )
    if json_lines:
        say(_NAME, said)
    else:
        print(said)
    if problem is not None:
        say(_NAME, problem)
    if problem is not None or any(tally.get(result) for result in ("refused", "unknown", "failed")):
        raise typer.Exit(1)


_WORDS: Final = {
    "sent": "sent",
    "sent_before": "sent by an earlier replay",
    "would_send": "would be sent",
    "refused": "refused",
    "unknown": "not sent, because nobody can tell whether they were",
    "failed": "not acknowledged by Kafka",
}


def _report(outcome: Outcome, number: int) -> None:
    if number <= _SHOWN_REFUSALS:
        what = f"{outcome.reason}: " if outcome.reason else ""
        say(_NAME, f"{outcome.id}: {what}{outcome.detail}")
    elif number == _SHOWN_REFUSALS + 1:
        say(_NAME, "there are more; --json writes what became of each")


# -- where they are ----------------------------------------------------------------------------


@contextlib.contextmanager
def _letters(data: Path | None) -> Iterator[tuple[DeadLetters, Any]]:
    """The dead letters of a running stack, or of the addresses in the environment."""
    import logging

    from sinks.clickhouse import Sink
    from streams.dead_letter import DeadLetterError, DeadLetters
    from streams.setting import Secret, SettingError, Settings
    from streams.topic import TopicError

    # What their clients have to say about an address that does not answer is said by the error.
    for chatty in ("kafka", "clickhouse_connect"):
        logging.getLogger(chatty).setLevel(logging.CRITICAL)
    try:
        settings = Settings.from_environment()
    except SettingError as error:
        wrong_usage(_NAME, str(error))
    if data is not None:
        from streams.stack import running_stack

        state = running_stack(data)
        if state is None:
            wrong_usage(_NAME, f"nothing runs over {data}; start it with `gatewatch up --data {data}`")
        try:
            token = (data / "engine.token").read_text("ascii").strip()
        except OSError as error:
            wrong_usage(_NAME, f"cannot read {data / 'engine.token'}: {error.strerror}; only its owner may")
        settings = dataclasses.replace(
            settings,
            kafka=state["bootstrap"],
            clickhouse_url=state["engine_url"],
            clickhouse_user="writer",
            clickhouse_password=Secret(token),
        )
    with failures_said(_NAME, "interrupted; what was about to be sent can be sent again in a minute"):
        try:
            with contextlib.closing(
                Sink(settings.clickhouse_url, settings.clickhouse_user, settings.clickhouse_password.reveal())
            ) as sink:
                yield DeadLetters(sink, settings), sink
        except (DeadLetterError, TopicError) as error:
            fail(_NAME, str(error))


def _filter(reasons: list[str] | None, since: str | None, sent: bool) -> DeadLetterFilter:
    from sinks.dead_letter import DeadLetterFilter

    since_ms = 0 if since is None else moment_ms(_NAME, "--since", since, time.time_ns() // 1_000_000)
    return DeadLetterFilter(tuple(reasons or ()), since_ms, sent)


# -- what is written ---------------------------------------------------------------------------


def _letter_row(address: Address, letter: StoredLetter) -> dict[str, Any]:
    from sinks.dead_letter import SENDING, SENT

    return {
        "id": str(address),
        "received": iso_text(letter.appended_ms),
        "size": letter.size,
        "state": {SENDING: "being sent", SENT: "sent again"}.get(letter.state, "dead"),
        "reason": letter.reason,
        "detail": letter.detail,
    }


def _reason_row(count: ReasonCount) -> dict[str, Any]:
    return {
        "reason": count.reason,
        "letters": count.letters,
        "bytes": count.bytes,
        "first": iso_text(count.first_ms),
        "last": iso_text(count.last_ms),
    }


def _as_text(shown: Shown) -> str:
    lines = [
        f"id        {shown.address}",
        f"received  {iso_text(shown.appended_ms)}",
        f"reason    {shown.reason}",
        f"detail    {visible(shown.detail)}",
        f"size      {shown.size} bytes" + (f", here the first {len(shown.value)}" if shown.missing else ""),
    ]
    if shown.sent_ms:
        lines.append(f"sent      again at {iso_text(shown.sent_ms)}")
    if not shown.is_stored:
        lines.append("stored    not by any worker: read from Kafka")
    return "\n".join([*lines, "", visible(shown.value.decode("utf-8", "backslashreplace"))])


def _as_json(shown: Shown) -> str:
    """The form that `replay --file` reads; a line that is not all here gets no ``line``."""
    import base64

    import msgspec

    body: dict[str, Any] = {
        "id": str(shown.address),
        "reason": shown.reason,
        "detail": shown.detail,
        "size": shown.size,
    }
    if shown.missing:
        return encoded(body | {"missing": shown.missing})
    try:
        text = shown.value.decode()
    except UnicodeDecodeError:
        return encoded(body | {"line_base64": base64.b64encode(shown.value).decode()})
    try:
        decoded = msgspec.json.decode(shown.value)
    except (msgspec.DecodeError, RecursionError, ValueError, OverflowError):
        decoded = None
    if isinstance(decoded, dict) and "\r" not in text:
        # As it stands, not decoded and encoded: numbers and repeated keys would change.
        return encoded(body | {"line": msgspec.Raw(shown.value)})
    return encoded(body | {"line": text})


# -- what is read ------------------------------------------------------------------------------


def _repaired(file: str) -> list[tuple[str, bytes | None]]:
    """Ids and the lines to send, from JSON lines. All are read before anything is sent."""
    name = "standard input" if file == "-" else file
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        wrong_usage(_NAME, f"cannot read {file}: {error.strerror}")
    return [
        _read_repaired(line, f"line {number} of {name}")
        for number, line in enumerate(content.split(b"\n"), 1)
        if line.strip()
    ]


def _read_repaired(text: bytes, place: str) -> tuple[str, bytes]:
    import base64

    import msgspec

    try:
        # Raw: the repaired line is taken as it stands.
        entry = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        letter = msgspec.json.decode(entry["id"], type=str)
        if "line" not in entry and "line_base64" in entry:
            encoded = msgspec.json.decode(entry["line_base64"], type=str)
            return letter, base64.b64decode(encoded, validate=True)
        line = bytes(entry["line"])
        if line.lstrip()[:1] == b'"':
            return letter, msgspec.json.decode(line, type=str).encode()
        return letter, line
    except (KeyError, msgspec.DecodeError, RecursionError, ValueError) as error:
        wrong = f"has no {error.args[0]}" if isinstance(error, KeyError) else "cannot be read"
        wrong_usage(
            _NAME,
            f'{place} {wrong}; write {{"id": "...", "line": an object or a string}}, as `show --json` does. '
            "Nothing was sent",
        )
