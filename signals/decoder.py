"""Decoding many events at once.

The reference is :func:`gatewatch.events.decode_line`, line by line. :func:`decode_values` is a shortcut
that gives the same events where every line is one, and says so where it does not.

Most events use less than half of the contract's sixty fields, and a field that nobody sends still
costs its place in every decoded object and its turn when columns are read. So the shortcut decodes
into *lean* structs: the contract's own types, only the fields that have been seen so far, and unknown
fields forbidden. A field that is not yet among them is an error that names it; it is added, and the
decoding starts again. Each can happen once, so the lean structs soon fit the traffic.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import Struct

from gatewatch.events import KINDS, LIMITS, CallEvent, Event

__all__ = ["FULL_KIND", "decode_values"]

_NEWLINE: Final = 10
_OPEN: Final = 0x7B
_CLOSE: Final = 0x7D
_UNKNOWN_FIELD: Final = re.compile(r"Object contains unknown field `([^`]*)`")
# Read from every event, whether it says them or not.
_ALWAYS: Final = frozenset({"at_ms", "gateway", "emitter_id", "seq", "operation"})

FULL_KIND: Final[dict[type[Struct], type[Event]]] = {kind: kind for kind in KINDS.values()}
"""The contract's struct for each struct that decoding gives, lean ones included."""


class _LeanDecoder:
    """Decodes into structs that have the fields that were seen so far."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._fields = {
            name for kind in KINDS.values() if issubclass(kind, CallEvent) for name in kind.__struct_fields__
        }
        self._decoder = self._make()

    def _make(self) -> msgspec.json.Decoder[Any]:
        union: Any = None
        for tag, kind in KINDS.items():
            lean = self._lean(tag, kind) if issubclass(kind, CallEvent) else kind
            union = lean if union is None else union | lean
        return msgspec.json.Decoder(union)

    def _lean(self, tag: str, kind: type[CallEvent]) -> type[Struct]:
        fields: list[Any] = []
        for field in msgspec.structs.fields(kind):
            if field.required:
                fields.append((field.name, field.type))
            elif field.name in self._seen or field.name in _ALWAYS:
                if field.default_factory is not msgspec.NODEFAULT:
                    default = msgspec.field(default_factory=field.default_factory)
                else:
                    default = field.default
                fields.append((field.name, field.type, default))
        lean = msgspec.defstruct(
            kind.__name__,
            fields,
            tag_field="kind",
            tag=tag,
            kw_only=True,
            forbid_unknown_fields=True,
            gc=False,
        )
        FULL_KIND[lean] = kind  # type: ignore[assignment]
        return lean

    def decode_lines(self, text: bytes) -> list[Any] | None:
        """Decoded events; None when the full decoder must look."""
        while True:
            try:
                return self._decoder.decode_lines(text)
            except msgspec.ValidationError as error:
                unknown = _UNKNOWN_FIELD.match(str(error))
                if unknown is None:
                    return None
                name = unknown[1]
                if name in self._seen or name not in self._fields:
                    # A newer emitter's field, or one that the kind has not got: nothing to learn. What the
                    # attempt costs is the decoding up to the first such field.
                    return None
                self._seen.add(name)
                self._decoder = self._make()


_lean: Final = _LeanDecoder()
_full: Final = msgspec.json.Decoder(Event)


def decode_values(values: Sequence[bytes]) -> tuple[list[int], list[Any] | None]:
    """Events of records in which every line is an event, in one call.

    It accepts exactly what ``decode_line`` accepts line by line. ``decode_lines`` itself is more
    lenient: it takes two objects on a line and an object over several lines. Both are excluded by
    looking at the newlines: outside of the records' ends each stands between ``}`` and ``{``, which
    inside an object it never does, and there are exactly as many as events (a property test holds the
    two decoders against each other on mutated lines).

    Returns
    -------
    The number of lines of each record, and the events, or None where some line is none.
    """
    bodies = [value.removesuffix(b"\n") for value in values]
    counts = [body.count(b"\n") + 1 for body in bodies]
    joined = b"\n".join(bodies)
    if not joined.startswith(b"{") or not joined.endswith(b"}"):
        return counts, None
    text = np.frombuffer(joined, dtype=np.uint8)
    newline = np.flatnonzero(text == _NEWLINE)
    if np.any(text[newline - 1] != _CLOSE) or np.any(text[newline + 1] != _OPEN):
        return counts, None
    if len(joined) > LIMITS.line_bytes:
        edges = np.r_[-1, newline, len(joined)]
        if int(np.diff(edges).max()) - 1 > LIMITS.line_bytes:
            return counts, None
    try:
        events = _lean.decode_lines(joined)
        if events is None:
            events = _full.decode_lines(joined)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, ValueError, OverflowError):
        return counts, None
    if len(events) != len(newline) + 1:
        return counts, None
    return counts, events
