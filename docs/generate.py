"""Every page and file that is made from code, written or checked by one command.

``python -m docs.generate`` writes them; with ``--check`` it writes nothing and fails when one is
stale. What is generated is committed, so that it can be read without running anything.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

import gatewatch.events
from docs.price_source import price_file
from gatewatch.events import (
    EVENTS_TOPIC,
    KINDS,
    Call,
    Evaluation,
    Event,
    Feedback,
    Latency,
    Request,
    Resource,
    Response,
    Token,
    encode,
    json_schema,
)
from streams.setting import markdown
from traffic.profile import markdown as traffic_profile

ROOT: Final = Path(__file__).resolve().parents[1]

_CALL: Final[dict[str, Any]] = {
    "gateway": "litellm-eu-1",
    "environment": "production",
    "emitter_id": "f3a1c9d27b5e4c08",
    "call_id": "01JD8F6M3V9Q7W2X5T4R6Y8Z0A",
    "started_at_ms": 1_795_262_400_000,
    "provider": "anthropic",
    "model": "claude-sonnet-4-5",
    "tenant": "acme",
    "team": "search",
    "key_alias": "search-prod",
}

EXAMPLES: Final[Mapping[str, Event]] = {
    "request": Request(
        **_CALL, at_ms=1_795_262_400_000, seq=41, stream=True, max_output_tokens=1024, message_count=3
    ),
    "token": Token(**_CALL, at_ms=1_795_262_400_412, seq=42, ttft_ms=412.0),
    "response": Response(
        **_CALL,
        at_ms=1_795_262_403_180,
        seq=43,
        total_ms=3180.0,
        stream=True,
        stream_end="complete",
        status_code=200,
        finish_reason="end_turn",
        response_model="claude-sonnet-4-5-20250929",
        usage_source="provider",
        input_tokens=2048,
        cache_read_tokens=1536,
        output_tokens=187,
    ),
    "latency": Latency(**_CALL, at_ms=1_795_262_403_181, seq=44, queue_ms=3.5, upstream_ms=3120.0),
    "call": Call(
        **_CALL,
        at_ms=1_795_262_403_180,
        seq=45,
        total_ms=3180.0,
        ttft_ms=412.0,
        stream=True,
        stream_end="complete",
        status_code=200,
        usage_source="provider",
        input_tokens=2048,
        cache_read_tokens=1536,
        output_tokens=187,
        max_output_tokens=1024,
        tags={"feature": "autocomplete"},
    ),
    "feedback": Feedback(
        at_ms=1_795_262_460_000,
        gateway="litellm-eu-1",
        call_id=_CALL["call_id"],
        name="thumbs",
        score=1.0,
        tenant="acme",
    ),
    "evaluation": Evaluation(
        at_ms=1_795_262_405_000,
        gateway="litellm-eu-1",
        call_id=_CALL["call_id"],
        name="faithfulness",
        score=0.92,
        evaluator="judge:claude-haiku-4-5",
        tenant="acme",
    ),
    "resource": Resource(
        at_ms=1_795_262_410_000,
        gateway="vllm-eu-1",
        resource="gpu:0",
        model="llama-3.3-70b",
        gpu_utilization=0.87,
        gpu_memory_used_bytes=73_014_444_032,
        kv_cache_utilization=0.64,
        running_requests=24,
        queued_requests=3,
        gpu_count=1.0,
        interval_s=10.0,
    ),
}
"""One event of each kind, as a gateway would send it."""

_INTRODUCTION: Final = f"""\
# Events

What a gateway tells gatewatch. A Kafka record on the topic `{EVENTS_TOPIC}` holds one or many events as
NDJSON: one JSON object a line, told apart by `kind`. `gatewatch.Emitter` writes them; any other producer may.
[events.schema.json](events.schema.json) is the same contract as JSON Schema.

A field that is absent is unknown, never zero. Fields that this version does not know are ignored. A line that
is no event costs that line only: it is kept, with the reason, among the rejects.

`v` is the version of this contract, 1; absent means 1. A line with a higher `v` is refused
(`unsupported_version`), because a later version may give a field another meaning. Upgrade the workers before
the gateways. If it happened the other way round, upgrade the workers, then
`gatewatch dead-letters replay --reason unsupported_version` sends those lines again.
"""


def event_page() -> str:
    """``docs/events.md``."""
    notes = _docstrings(Path(inspect.getfile(gatewatch.events)))
    shared = _shared_groups()
    lines = [_INTRODUCTION]
    lines += ["| Kind | What it tells |", "|---|---|"]
    for kind, struct in KINDS.items():
        lines.append(f"| [`{kind}`](#{kind}) | {_first_line(struct)} |")
    for group in shared:
        lines += ["", f"## {_TITLES[group.__name__]}", "", *_paragraphs(group), ""]
        lines += _table(group, notes)
    for kind, struct in KINDS.items():
        lines += ["", f"## {kind}", "", *_paragraphs(struct), ""]
        groups = [
            f"[{_TITLES[part.__name__].lower()}](#{_TITLES[part.__name__].lower().replace(' ', '-')})"
            for part in reversed(struct.__mro__)
            if part.__name__ in _TITLES
        ]
        lines.append(f"Has the fields of {', '.join(groups)}" + (", and:" if _own(struct) else "."))
        if _own(struct):
            lines += ["", *_table(struct, notes)]
        lines += ["", "```json", _pretty(EXAMPLES[kind]), "```"]
    return "\n".join(lines) + "\n"


_TITLES: Final[Mapping[str, str]] = {
    "_Base": "Every event",
    "CallEvent": "Every event of a call",
    "_Timed": "Times",
    "Outcome": "Outcome and usage",
}


def _shared_groups() -> list[type[msgspec.Struct]]:
    found: dict[str, type[msgspec.Struct]] = {}
    for struct in KINDS.values():
        for part in reversed(struct.__mro__):
            if part.__name__ in _TITLES:
                found.setdefault(part.__name__, part)
    return [found[name] for name in _TITLES]


def _own(struct: type[msgspec.Struct]) -> list[str]:
    return [name for name in struct.__annotations__ if name in struct.__struct_fields__]


def _table(struct: type[msgspec.Struct], notes: Mapping[tuple[str, str], str]) -> list[str]:
    fields = {field.name: field for field in msgspec.inspect.type_info(struct).fields}  # type: ignore[attr-defined]
    lines = ["| Field | Type | Required | Meaning |", "|---|---|---|---|"]
    if struct.__name__ == "_Base":
        kinds = ", ".join(f"`{kind}`" for kind in KINDS)
        lines.append(f"| `kind` | one of {kinds} | yes | What the event tells. |")
    for name in _own(struct):
        field = fields[name]
        required = "yes" if field.required else ""
        note = notes.get((struct.__name__, name), "")
        lines.append(f"| `{name}` | {_type(field.type)} | {required} | {_cell(note)} |")
    return lines


def _type(kind: Any) -> str:
    """A type of the contract in words, with its bounds."""
    match kind:
        case msgspec.inspect.UnionType(types=types):
            return " or ".join(_type(part) for part in types if part != msgspec.inspect.NoneType())
        case msgspec.inspect.IntType(ge=least, le=most):
            return f"integer{_bounds(least, most)}"
        case msgspec.inspect.FloatType(ge=least, le=most):
            return f"number{_bounds(least, most)}"
        case msgspec.inspect.StrType(min_length=least, max_length=most):
            if most is None:
                return "text"
            return f"text, {least} to {most:,} characters" if least else f"text, at most {most:,} characters"
        case msgspec.inspect.LiteralType(values=values):
            return "one of " + ", ".join(f"`{value}`" for value in values)
        case msgspec.inspect.BoolType():
            return "boolean"
        case msgspec.inspect.ListType(item_type=item):
            return f"list of {_type(item)}"
        case msgspec.inspect.DictType(value_type=value):
            return f"object of {_type(value)}"
        case msgspec.inspect.AnyType():
            return "anything"
    raise TypeError(f"the event page has no words for {kind!r}; add them to docs/generate.py")


def _bounds(least: float | None, most: float | None) -> str:
    if least is None or most is None:
        return ""
    return f", {_number(least)} to {_number(most)}"


def _number(value: float) -> str:
    if abs(value) >= 1e15:
        power = round(math.log10(abs(value)))
        if abs(value) == 10**power:
            return f"{'-' if value < 0 else ''}1e{power}"
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _cell(text: str) -> str:
    """Docstrings are reStructuredText; a cell of a table is Markdown on one line."""
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")


def _paragraphs(struct: type) -> list[str]:
    return [
        _cell(part) for part in inspect.cleandoc(struct.__doc__ or "").split("\n\n") for part in (part, "")
    ][:-1]


def _first_line(struct: type) -> str:
    return _cell(inspect.cleandoc(struct.__doc__ or "").split("\n\n")[0])


def _docstrings(module: Path) -> dict[tuple[str, str], str]:
    """What stands under each field: Python keeps no attribute docstrings, so the source is read."""
    found = {}
    for node in ast.parse(module.read_text("utf-8")).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for field, note in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(note, ast.Expr)
                and isinstance(note.value, ast.Constant)
                and isinstance(note.value.value, str)
            ):
                found[node.name, field.target.id] = note.value.value
    return found


def _pretty(event: Event) -> str:
    return json.dumps(json.loads(encode(event)), indent=2)


def schema_file() -> str:
    """``docs/events.schema.json``."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


GENERATED: Final[Mapping[str, Callable[[], str]]] = {
    "docs/events.schema.json": schema_file,
    "docs/events.md": event_page,
    "docs/settings.md": markdown,
    "docs/traffic_profile.md": traffic_profile,
    "gatewatch/price_data/genai_prices.json": price_file,
}
"""What is generated, by its path from the root of the checkout."""


def stale(root: Path = ROOT) -> list[str]:
    """The generated files that are missing, or are not what the code says."""
    found = []
    for name, render in GENERATED.items():
        path = root / name
        if not path.is_file() or path.read_text("utf-8") != render():
            found.append(name)
    return found


def write(root: Path = ROOT) -> list[str]:
    """Write what is stale; gives the names of what was written."""
    written = stale(root)
    for name in written:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(GENERATED[name](), "utf-8")
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """Write, or check; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when something is stale")
    parser.add_argument("--root", type=Path, default=ROOT, help="of the checkout")
    options = parser.parse_args(arguments)
    if options.check:
        found = stale(options.root)
        for name in found:
            print(f"{name} is not what the code says; run `make generate` and commit it", file=sys.stderr)
        return 1 if found else 0
    for name in write(options.root):
        print(f"wrote {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
