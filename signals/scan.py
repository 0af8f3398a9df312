"""The machine-near part of decoding: many lines of JSON in one pass, straight into columns.

Compiled by numba when it is first used on a machine: some seconds, and the result is kept in
``__pycache__`` (or below ``NUMBA_CACHE_DIR``); ``make prepare`` does it ahead.

It reads only what it is certain of and says of every other line that it is not; those are left to
:func:`gatewatch.events.decode_line`. So it knows no whitespace but single spaces after a comma or colon, no
negative numbers and no escapes in names, and of nested values it only finds the end: whoever takes the
columns has to read them, and to leave the line to the reference when they are wrong.

Reading eight bytes at a time follows "Bit Twiddling Hacks" (Anderson), *determine if a word has a byte
less than n*. Decimals are read as in Clinger, "How to read floating point numbers accurately" (PLDI 1990):
an integer below 2**53 divided by an exact power of ten is correctly rounded. Longer ones are multiplied by
the first 64 bits of a power's inverse, as in Lemire, "Number parsing at a gigabyte per second" (2021), and
are uncertain where the bits behind these could change the rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

__all__ = [
    "BLANK",
    "CODE",
    "EVENT",
    "FLAG",
    "INTEGER",
    "LENGTH",
    "NESTED",
    "OBJECT",
    "PADDING",
    "REAL",
    "TEXT",
    "UNCERTAIN",
    "compiled",
    "gather",
    "scan",
]

TEXT: Final = 0
"""Text; its value is where it stands: ``start << 32 | bytes``, and bit 31 if it has escapes."""
CODE: Final = 1
"""One of a few names; its value is which one."""
INTEGER: Final = 2
REAL: Final = 3
FLAG: Final = 4
OBJECT: Final = 5
"""A flat object of text; its value is where it stands, braces included."""
NESTED: Final = 6
"""Any object or list; its value is where it stands, brackets included. What is in it has not been read: of a
line with wrong JSON in such a field, only the rest is certain."""

LENGTH: Final = (1 << 31) - 1
"""The bits of a text's value that count its bytes, as they stand in the line."""

EVENT: Final = 0
UNCERTAIN: Final = 1
BLANK: Final = 2

PADDING: Final = bytes(16)
"""Has to follow the text: it is read in words of eight bytes, and no value goes on with a zero byte."""

_DIGITS_MOST: Final = 18
_ESCAPED: Final = 1 << 31
_DEPTH_MOST: Final = 16
_WHOLE: Final = 1 << 30

_EXACT: Final = 1 << 53
_POWERS: Final = np.array([float(10**k) for k in range(23)])
"""Larger powers of ten are no doubles."""
_BEFORE_DIGIT: Final = ((1 << 63) - 10) // 10
"""A larger number has no room for another digit."""
_POWER_MOST: Final = 60
_SHIFTS: Final = np.array([63 + (10**k - 1).bit_length() for k in range(_POWER_MOST + 1)])
_INVERSES: Final = np.array(
    [(1 << 63 + (10**k - 1).bit_length()) // 10**k for k in range(_POWER_MOST + 1)], dtype=np.uint64
)
"""Of the powers of ten, times ``2**_SHIFTS``, rounded down: 64 bits each."""

_F = TypeVar("_F", bound=Callable[..., Any])


def compiled(function: _F) -> _F:
    """Compile at the first call, and keep the result where that can be written."""
    made: Any
    try:
        made = njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no such place: it is compiled at every start
        made = njit(nogil=True)(function)
    return cast(_F, made)


# Its functions are called without their first parameter.
_intrinsic: Final[Callable[[Callable[..., Any]], Callable[..., Any]]] = intrinsic


@_intrinsic
def _byte(_context: Any, base: Any, at: Any) -> Any:
    """The byte at an address."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        address = builder.add(*arguments)
        byte = builder.load(builder.inttoptr(address, ir.IntType(8).as_pointer()))
        return builder.zext(byte, ir.IntType(64))

    return types.int64(base, at), generate


@_intrinsic
def _word(_context: Any, base: Any, at: Any) -> Any:
    """Eight bytes at any address, the first one lowest."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        address = builder.add(*arguments)
        return builder.load(builder.inttoptr(address, ir.IntType(64).as_pointer()), align=1)

    return types.uint64(base, at), generate


@_intrinsic
def _put_word(_context: Any, base: Any, at: Any, word: Any) -> Any:
    """Write eight bytes at any address."""

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        address = builder.add(arguments[0], arguments[1])
        builder.store(arguments[2], builder.inttoptr(address, ir.IntType(64).as_pointer()), align=1)
        return context.get_dummy_value()

    return types.none(base, at, word), generate


@_intrinsic
def _zeros_below(_context: Any, word: Any) -> Any:
    """How many bits below the lowest one that is set."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(word), generate


@_intrinsic
def _zeros_above(_context: Any, word: Any) -> Any:
    """How many bits above the highest one that is set."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(word), generate


@_intrinsic
def _high_product(_context: Any, left: Any, right: Any) -> Any:
    """The upper 64 bits of a product of 128."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(*(builder.zext(argument, wide) for argument in arguments))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(left, right), generate


_ONES: Final = np.uint64(0x0101010101010101)
_TOPS: Final = np.uint64(0x8080808080808080)
_QUOTES: Final = np.uint64(0x2222222222222222)
_BACKSLASHES: Final = np.uint64(0x5C5C5C5C5C5C5C5C)
_SPACES: Final = np.uint64(0x2020202020202020)

_NEWLINE: Final = ord("\n")
_SPACE: Final = ord(" ")
_QUOTE: Final = ord('"')
_COMMA: Final = ord(",")
_COLON: Final = ord(":")
_POINT: Final = ord(".")
_OPEN: Final = ord("{")
_CLOSE: Final = ord("}")
_OPEN_LIST: Final = ord("[")
_CLOSE_LIST: Final = ord("]")
_ZERO: Final = ord("0")
_N: Final = ord("n")
_U: Final = ord("u")
_E: Final = ord("e")
_PLUS: Final = ord("+")
_MINUS: Final = ord("-")
_NINE: Final = ord("9")
_BACKSLASH: Final = ord("\\")
_LOWER: Final = 0x20
"""The bit in which a small letter differs from its capital."""

_ESCAPES: Final = np.zeros(256, dtype=np.int64)
"""What a letter stands for behind a backslash."""
for _letter, _meaning in zip('"\\/bfnrt', '"\\/\b\f\n\r\t', strict=True):
    _ESCAPES[ord(_letter)] = ord(_meaning)
_DIGITS: Final = np.full(256, -1, dtype=np.int64)
"""What a hexadecimal digit stands for."""
for _letter in "0123456789abcdefABCDEF":
    _DIGITS[ord(_letter)] = int(_letter, 16)

_FOUR_BYTES: Final = np.uint64((1 << 32) - 1)
_FIVE_BYTES: Final = np.uint64((1 << 40) - 1)
_NULL: Final = np.uint64(int.from_bytes(b"null", "little"))
_TRUE: Final = np.uint64(int.from_bytes(b"true", "little"))
_FALSE: Final = np.uint64(int.from_bytes(b"false", "little"))


@compiled
def _same(base: int, at: int, names: int, start: int, stop: int) -> bool:
    """Whether the bytes at ``at`` are those of a name."""
    left = stop - start
    while left >= 8:
        if _word(base, at) != _word(names, start):
            return False
        at += 8
        start += 8
        left -= 8
    if left == 0:
        return True
    differ = _word(base, at) ^ _word(names, start)
    return bool((differ << np.uint64(64 - 8 * left)) == 0)


@compiled
def _character_bytes(base: int, at: int) -> int:
    """Bytes of a character of UTF-8 that is not ASCII, or 0 where it is none (Unicode 15, table 3-7)."""
    first = _byte(base, at)
    second = _byte(base, at + 1)
    if second & 0xC0 != 0x80:
        return 0
    if 0xC2 <= first <= 0xDF:
        return 2
    if _byte(base, at + 2) & 0xC0 != 0x80:
        return 0
    if 0xE0 <= first <= 0xEF:
        if (first == 0xE0 and second < 0xA0) or (first == 0xED and second > 0x9F):
            return 0
        return 3
    if _byte(base, at + 3) & 0xC0 != 0x80 or first < 0xF0 or first > 0xF4:
        return 0
    if (first == 0xF0 and second < 0x90) or (first == 0xF4 and second > 0x8F):
        return 0
    return 4


@compiled
def _code_unit(base: int, at: int) -> int:
    """The number that four hexadecimal digits say; negative when they do not."""
    number: int = _DIGITS[_byte(base, at)]
    for k in range(1, 4):
        number = number << 4 | _DIGITS[_byte(base, at + k)]
    return number


@compiled
def _escape(base: int, at: int) -> tuple[int, int]:
    """The character that an escape stands for and the bytes it takes; 0 for these when uncertain."""
    letter = _byte(base, at + 1)
    if letter != _U:
        return _ESCAPES[letter], 2 if _ESCAPES[letter] else 0
    first = _code_unit(base, at + 2)
    if first < 0xD800 or first > 0xDFFF:
        return first, 6 if first >= 0 else 0
    if first > 0xDBFF or _byte(base, at + 6) != _BACKSLASH or _byte(base, at + 7) != _U:
        return 0, 0
    second = _code_unit(base, at + 8)
    if second < 0xDC00 or second > 0xDFFF:
        return 0, 0
    return 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00), 12


@compiled
def _text_end(base: int, begin: int, least: int, most: int) -> tuple[int, int]:
    """Where the text that begins after a quote ends, at its closing quote, and the flag of its escapes.

    The end is -1 when uncertain.
    """
    at = begin
    escaped = 0
    # Bytes that are no characters: of each escape and of each character, those behind the first.
    more = 0
    while True:
        word = _word(base, at)
        quote = word ^ _QUOTES
        backslash = word ^ _BACKSLASHES
        # Bits above a byte's own can be set wrongly, so the lowest one is looked at and the rest again.
        special = ((quote - _ONES) & ~quote) | ((backslash - _ONES) & ~backslash) | (word - _SPACES) | word
        special &= _TOPS
        if special == 0:
            at += 8
            continue
        at += _zeros_below(special) >> 3
        byte = _byte(base, at)
        if byte == _QUOTE:
            break
        if byte < _SPACE:
            return -1, 0
        # One seldom comes alone.
        while byte == _BACKSLASH:
            _, length = _escape(base, at)
            if length == 0:
                return -1, 0
            more += length - 1
            at += length
            byte = _byte(base, at)
            escaped = _ESCAPED
        while byte >= 0x80:
            length = _character_bytes(base, at)
            if length == 0:
                return -1, 0
            more += length - 1
            at += length
            byte = _byte(base, at)
    return at if least <= at - begin - more <= most else -1, escaped


@compiled
def _integer(base: int, at: int) -> tuple[int, int]:
    """A natural number and where it ends, or -1 for that."""
    begin = at
    number = 0
    while True:
        digit = _byte(base, at) - _ZERO
        if digit < 0 or digit > 9:
            break
        number = number * 10 + digit
        at += 1
    digits = at - begin
    if digits == 0 or digits > _DIGITS_MOST or (digits > 1 and _byte(base, begin) == _ZERO):
        return 0, -1
    return number, at


@compiled
def _real(base: int, at: int) -> tuple[float, int]:
    """A number that is not negative and where it ends, or -1 for that."""
    number, end = _integer(base, at)
    if end < 0:
        return 0.0, -1
    power = 0
    if _byte(base, end) == _POINT:
        end += 1
        begin = end
        while True:
            digit = _byte(base, end) - _ZERO
            if digit < 0 or digit > 9:
                break
            if number > _BEFORE_DIGIT:
                return 0.0, -1
            number = number * 10 + digit
            end += 1
        power = end - begin
        if power == 0:
            return 0.0, -1
    if _byte(base, end) | _LOWER == _E:
        exponent, end = _exponent(base, end + 1)
        if end < 0:
            return 0.0, -1
        power -= exponent
    if power < 0 or power > _POWER_MOST:
        return 0.0, -1
    if number < _EXACT and power < len(_POWERS):
        return number / _POWERS[power], end
    fraction = _fraction(number, power)
    return fraction, end if fraction >= 0 else -1


@compiled
def _exponent(base: int, at: int) -> tuple[int, int]:
    """The number behind an ``e`` and where it ends, or -1 for that."""
    sign = _byte(base, at)
    if sign in (_PLUS, _MINUS):
        at += 1
    begin = at
    number = 0
    while True:
        digit = _byte(base, at) - _ZERO
        if digit < 0 or digit > 9:
            break
        number = number * 10 + digit
        if number > _POWER_MOST:
            return 0, -1
        at += 1
    return -number if sign == _MINUS else number, at if at > begin else -1


@compiled
def _fraction(number: int, power: int) -> float:
    """``number / 10**power`` correctly rounded; -1 when uncertain."""
    if number == 0:
        return 0.0
    zeros = _zeros_above(number)
    # What the inverse lacks, and the lower half of the product, are each less than one in these bits.
    bits = _high_product(np.uint64(number) << np.uint64(zeros), _INVERSES[power])
    dropped = 11 if bits >> np.uint64(63) else 10
    rest = np.int64(bits & np.uint64((1 << dropped) - 1))
    half = 1 << (dropped - 1)
    if rest == half or rest == half - 1:
        return -1.0
    mantissa = np.int64(bits >> np.uint64(dropped))
    if rest > half:
        mantissa += 1
    return math.ldexp(float(mantissa), 64 + dropped - zeros - _SHIFTS[power])


@compiled
def _literal(base: int, at: int) -> tuple[int, int]:
    """``false`` as 0, ``true`` as 1, ``null`` as -1, and where it ends, or -1 for that."""
    four = _word(base, at) & _FOUR_BYTES
    if four == _TRUE:
        return 1, at + 4
    if four == _NULL:
        return -1, at + 4
    if _word(base, at) & _FIVE_BYTES == _FALSE:
        return 0, at + 5
    return 0, -1


@compiled
def _object_end(base: int, at: int, most: int) -> int:
    """Where a flat object of text ends, behind its brace; -1 when uncertain."""
    at += 1
    if _byte(base, at) == _CLOSE:
        return at + 1
    while True:
        for part in range(2):
            if _byte(base, at) != _QUOTE:
                return -1
            at, _ = _text_end(base, at + 1, 0, most)
            if at < 0:
                return -1
            at += 1
            if part == 0:
                if _byte(base, at) != _COLON:
                    return -1
                at += 1
                if _byte(base, at) == _SPACE:
                    at += 1
        if _byte(base, at) == _CLOSE:
            return at + 1
        if _byte(base, at) != _COMMA:
            return -1
        at += 1
        if _byte(base, at) == _SPACE:
            at += 1


@compiled
def _nested_end(base: int, at: int) -> int:
    """Where an object or a list ends, behind its bracket; -1 when uncertain.

    Nothing is read but brackets and texts. Whatever finds correct JSON up to that end finds the same end.
    """
    depth = 0
    while True:
        byte = _byte(base, at)
        if byte == _QUOTE:
            at, _ = _text_end(base, at + 1, 0, _WHOLE)
            if at < 0:
                return -1
        elif byte in (_OPEN, _OPEN_LIST):
            depth += 1
            if depth > _DEPTH_MOST:
                return -1
        elif byte in (_CLOSE, _CLOSE_LIST):
            depth -= 1
        elif byte < _SPACE:
            return -1
        at += 1
        if depth <= 0:
            return at


@compiled
def _unknown_end(base: int, at: int) -> int:
    """Where a field ends that nobody knows: its name, a colon, a plain value; -1 when uncertain."""
    if _byte(base, at) != _QUOTE:
        return -1
    at, escapes = _text_end(base, at + 1, 0, _WHOLE)
    # An escaped name can be one that is known.
    if at < 0 or escapes or _byte(base, at + 1) != _COLON:
        return -1
    at += 2
    if _byte(base, at) == _SPACE:
        at += 1
    if _byte(base, at) == _QUOTE:
        end, _ = _text_end(base, at + 1, 0, _WHOLE)
        return end + 1 if end >= 0 else -1
    if _byte(base, at) > _NINE:
        return _literal(base, at)[1]
    return _real(base, at)[1]


@compiled
def _all_allowed(seen: NDArray[np.int64], line: int, allowed: NDArray[np.bool_]) -> bool:
    """Whether a kind of event has all the fields that were seen before the kind itself."""
    fits = True
    for field in range(1, len(seen)):
        if seen[field] == line:
            fits = fits and allowed[field]
    return fits


@compiled
def scan(
    text: NDArray[np.uint8],
    at: int,
    line_most: int,
    names: NDArray[np.uint8],
    name_at: NDArray[np.int64],
    options: NDArray[np.uint8],
    option_at: NDArray[np.int64],
    first_option: NDArray[np.int64],
    kind_of: NDArray[np.int64],
    low: NDArray[np.int64],
    high: NDArray[np.int64],
    real_low: NDArray[np.float64],
    real_high: NDArray[np.float64],
    nullable: NDArray[np.bool_],
    allowed: NDArray[np.bool_],
    required: NDArray[np.int64],
    follows: NDArray[np.int64],
    value: NDArray[np.int64],
    real: NDArray[np.float64],
    present: NDArray[np.bool_],
    status: NDArray[np.int8],
    starts: NDArray[np.int64],
) -> tuple[int, int]:
    """Read lines into columns, as many as there is room for.

    Parameters
    ----------
    text
        Lines, followed by :data:`PADDING`.
    at
        Where the first line begins.
    line_most
        Longer lines, in bytes, are uncertain.
    names, name_at
        The quoted field names with their colons, one after the other, and where each begins; shape
        (fields + 1,). Field 0 says what kind of event a line holds.
    options, option_at, first_option
        The same for the quoted names of all ``CODE`` fields, and each field's first one.
    kind_of, low, high, real_low, real_high, nullable
        For each field: what it holds; bounds of a number, or of a text's characters; whether it may be
        null.
    allowed, required
        For each kind of event: the fields that it has, shape (kinds, fields), and those that it must
        have, shape (kinds, most), filled up with field 0.
    follows
        For each field, and once more for the start, which field came after it last time; learned here.
    value, real, present
        Columns, shape (fields, room); ``real`` is the same memory as ``value``, and all of ``present`` must
        be false. Only present values are written.
    status, starts
        For each line: ``EVENT``, ``UNCERTAIN`` or ``BLANK``, and where it begins.

    Returns
    -------
    How many lines were read, and where the next one begins: past the text's end when there is none.
    """
    base = text.ctypes.data
    name_base = names.ctypes.data
    option_base = options.ctypes.data
    size = len(text) - len(PADDING)
    fields = len(kind_of)
    seen = np.full(fields, -1, np.int64)
    line = 0
    while at <= size and line < value.shape[1]:
        begin = at
        starts[line] = begin
        kind = -1
        previous = fields
        well = False
        if _byte(base, at) == _OPEN:
            at += 1
            while True:
                field = follows[previous]
                if not _same(base, at, name_base, name_at[field], name_at[field + 1]):
                    field = -1
                    for candidate in range(fields):
                        if _same(base, at, name_base, name_at[candidate], name_at[candidate + 1]):
                            field = candidate
                            follows[previous] = field
                            break
                if field < 0:
                    end = _unknown_end(base, at)
                    if end < 0:
                        break
                    at = end
                else:
                    if seen[field] == line:
                        break
                    seen[field] = line
                    if kind >= 0 and not allowed[kind, field]:
                        break
                    leading = at == begin + 1
                    at += name_at[field + 1] - name_at[field]
                    first = _byte(base, at)
                    if first == _SPACE:
                        at += 1
                        first = _byte(base, at)
                    holds = kind_of[field]
                    if first == _N:
                        truth, at = _literal(base, at)
                        if at < 0 or not nullable[field]:
                            break
                    elif holds == TEXT:
                        if first != _QUOTE:
                            break
                        end, escapes = _text_end(base, at + 1, low[field], high[field])
                        if end < 0:
                            break
                        value[field, line] = ((at + 1) << 32) | escapes | (end - at - 1)
                        present[field, line] = True
                        at = end + 1
                    elif holds == INTEGER:
                        number, at = _integer(base, at)
                        if at < 0 or number < low[field] or number > high[field]:
                            break
                        value[field, line] = number
                        present[field, line] = True
                    elif holds == REAL:
                        fraction, at = _real(base, at)
                        if at < 0 or fraction < real_low[field] or fraction > real_high[field]:
                            break
                        real[field, line] = fraction
                        present[field, line] = True
                    elif holds == CODE:
                        code = -1
                        for option in range(first_option[field], first_option[field + 1]):
                            if _same(base, at, option_base, option_at[option], option_at[option + 1]):
                                code = option - first_option[field]
                                at += option_at[option + 1] - option_at[option]
                                break
                        if code < 0:
                            break
                        value[field, line] = code
                        present[field, line] = True
                        if field == 0:
                            kind = code
                            if not leading and not _all_allowed(seen, line, allowed[kind]):
                                break
                    elif holds == FLAG:
                        truth, at = _literal(base, at)
                        if at < 0:
                            break
                        value[field, line] = truth
                        present[field, line] = True
                    elif holds == OBJECT:
                        if first != _OPEN:
                            break
                        end = _object_end(base, at, high[field])
                        if end < 0:
                            break
                        value[field, line] = (at << 32) | (end - at)
                        present[field, line] = True
                        at = end
                    else:
                        if first != _OPEN and first != _OPEN_LIST:
                            break
                        end = _nested_end(base, at)
                        if end < 0:
                            break
                        value[field, line] = (at << 32) | (end - at)
                        present[field, line] = True
                        at = end
                    previous = field
                following = _byte(base, at)
                if following == _COMMA:
                    at += 1
                    if _byte(base, at) == _SPACE:
                        at += 1
                    continue
                if following == _CLOSE:
                    at += 1
                    well = at == size or _byte(base, at) == _NEWLINE
                break
        if well and kind >= 0 and at - begin <= line_most:
            status[line] = EVENT
            for i in range(required.shape[1]):
                if not present[required[kind, i], line]:
                    status[line] = UNCERTAIN
        else:
            at = begin
            status[line] = BLANK
            while at < size and _byte(base, at) != _NEWLINE:
                byte = _byte(base, at)
                if byte != _SPACE and (byte < 9 or byte > 13):
                    status[line] = UNCERTAIN
                at += 1
        if status[line] != EVENT:
            present[:, line] = False
        at += 1
        line += 1
    starts[line] = at
    return line, at


@compiled
def _unescape(source: int, at: int, end: int, target: int, written: int) -> int:
    """Copy a text without its escapes; gives where it ends there."""
    while True:
        word = _word(source, at)
        _put_word(target, written, word)
        backslash = word ^ _BACKSLASHES
        # Of the bits that are set wrongly, none is below the first backslash's.
        found = (backslash - _ONES) & ~backslash & _TOPS
        plain = 8 if found == 0 else _zeros_below(found) >> 3
        if at + plain >= end:
            return written + end - at
        at += plain
        written += plain
        while at < end and _byte(source, at) == _BACKSLASH:
            point, length = _escape(source, at)
            at += length
            if point < 0x80:
                utf8, size = point, 1
            elif point < 0x800:
                utf8, size = 0x80C0 | point >> 6 | (point & 63) << 8, 2
            elif point < 0x10000:
                utf8, size = 0x8080E0 | point >> 12 | (point >> 6 & 63) << 8 | (point & 63) << 16, 3
            else:
                utf8 = 0x808080F0 | point >> 18 | (point >> 12 & 63) << 8
                utf8, size = utf8 | (point >> 6 & 63) << 16 | (point & 63) << 24, 4
            _put_word(target, written, np.uint64(utf8))
            written += size


@compiled
def gather(
    text: NDArray[np.uint8],
    spans: NDArray[np.int64],
    present: NDArray[np.bool_],
    offsets: NDArray[np.int32],
    out: NDArray[np.uint8],
) -> None:
    """Copy pieces of a text together without their escapes, as Arrow keeps strings.

    Parameters
    ----------
    spans
        The value of each, as :data:`TEXT` says, shape (n,); what is not present is empty.
    offsets
        Shape (n + 1,), written.
    out
        Room for all bytes and eight more, written.
    """
    source = text.ctypes.data
    target = out.ctypes.data
    written = 0
    for i in range(len(spans)):
        offsets[i] = written
        if present[i]:
            start = spans[i] >> 32
            length = spans[i] & LENGTH
            if spans[i] & _ESCAPED:
                written = _unescape(source, start, start + length, target, written)
            else:
                for k in range(0, length, 8):
                    _put_word(target, written + k, _word(source, start + k))
                written += length
    offsets[len(spans)] = written
