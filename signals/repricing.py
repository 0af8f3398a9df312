r"""Costs computed again from what is stored of a call: which of them changed, and how that is kept.

What a lane stored of a cost (:mod:`signals.cost`) is never touched: it is what was reported at the time. A
cost that was computed again stands beside it in one column, ``repriced``, which is empty for calls that
never were (an empty text costs nothing to insert or merge, docs/decisions/repriced-costs.md). It holds, as
unsigned numbers of eight bytes, the largest byte first::

    rank of the usage | version of the prices | when the call was read, ms | nano-USD by column | their sum

and then the text ``<status><price id>\0<reason>\0<details>``. Texts merge by the largest, byte by byte, so
the parts of one computation stay together, and that by the better usage, then the newer prices, then of
what was read later, wins. The same order decides between it and the lane's cost (:func:`counted`): what a
late event says of the usage counts before a new price that was put on an estimate.

A stored call is its events merged, and each event was priced by itself. So what only events without an end
have said, and what a worse source of usage has said, is left out before a call is priced again: with the
same prices it costs what it did.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct
from numpy.typing import NDArray

from gatewatch.price_book import PriceBook
from gatewatch.pricing import FIELDS
from signals import spend
from signals.chunk import WINDOW_S, series_name
from signals.column import CALL_COLUMNS, RANK_ESTIMATED, RANK_PROGRESS, RANK_SHIFT, coded, numbers
from signals.cost import AMOUNT_BITS, COLUMNS, HEAD_DIGITS, STATUSES, VERSION_BITS, costs
from signals.signal import CUTS, DIMENSIONS, Cut

__all__ = [
    "HEAD_BYTES",
    "MEASURED_BY",
    "NUMBERS",
    "NUMBER_BYTES",
    "PRICED_BY",
    "Correction",
    "Costs",
    "Repriced",
    "counted",
    "reprice",
]

_TOKENS: Final = tuple(column.name for column in CALL_COLUMNS if column.encoding == "tokens")
_COSTS: Final = (
    "last_at",
    "reported_cost_nano_usd",
    *COLUMNS,
    "price",
    "cost_details",
    "cost_minute",
    "repriced",
)
PRICED_BY: Final = (
    *("started_at", "call_id", "provider", "model", "service_tier", "deployment", "tenant"),
    *("gateway_cache_hit", "tool_requests", "parts", *_TOKENS, *_COSTS),
)
"""Columns of ``calls`` that :func:`reprice` reads; times as milliseconds."""
MEASURED_BY: Final = (*DIMENSIONS, "input_tokens", "output_tokens", *_COSTS)
"""Columns of ``calls`` that a :class:`Correction` reads; times as milliseconds."""
NUMBER_BYTES: Final = 8
NUMBERS: Final = ("rank", "version", "read_ms", *COLUMNS, "total")
"""The numbers at the beginning of ``repriced``."""
HEAD_BYTES: Final = NUMBER_BYTES * len(NUMBERS)

_AMOUNT: Final = (1 << AMOUNT_BITS) - 1
_END: Final = "\0"
_MINUTE_MS: Final = WINDOW_S * 1000
_WINDOW_BITS: Final = 26
_WINDOW: Final = (1 << _WINDOW_BITS) - 1
_SIGNALS: Final = {signal.name: signal for signal in spend.SIGNALS}
_WITH_COST: Final = frozenset(str(i + 1) for i, status in enumerate(STATUSES) if status != "unpriced")

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

assert set(FIELDS).intersection(column.name for column in CALL_COLUMNS) <= set(_TOKENS)


class Costs(Struct, frozen=True):
    """Costs of many calls; arrays have shape (n,)."""

    rank: Ints
    version: Ints
    """0 where there is no cost."""
    read_ms: Ints
    """0 where a lane computed it."""
    amounts: Ints
    """Nano-USD, shape (columns, n)."""
    text: Ints
    """Index into ``texts``."""
    texts: list[str]
    r"""``<status><price id>\0<reason>\0<details>``; the first is empty."""

    def total(self) -> Ints:
        """Nano-USD of each; zero where a cost is not known."""
        return np.where(self.known(), self.amounts.sum(axis=0), 0)

    def known(self) -> Bools:
        """Whether it is known what a call cost."""
        return self._each(lambda text: text[:1] in _WITH_COST)

    def unpriced(self) -> Bools:
        """Whether a call has ended and it is not known what it cost."""
        return self._each(lambda text: bool(text)) & ~self.known()

    def head(self) -> Ints:
        """What decides between two costs, before when they were computed."""
        return self.rank << 13 | self.version

    def _each(self, holds: Callable[[str], bool]) -> Bools:
        of_text: Bools = np.array([holds(text) for text in self.texts], dtype=np.bool_)
        return of_text[self.text]


class Repriced(Struct, frozen=True):
    """What computing the costs of stored calls again gave."""

    reported: Costs
    """What lanes have stored."""
    before: Costs
    """What counted until now."""
    after: Costs
    """What counts from now on."""
    changed: Bools
    """Calls that cost something else now, or for another reason."""
    newer: Bools
    """Calls that would, but count by prices of a later version."""
    rows: pa.Table
    """What is to be inserted into ``calls`` for those that changed."""


def reprice(table: pa.Table, book: PriceBook, version: int, read_ms: int) -> Repriced:
    """Compute the costs of stored calls again.

    Parameters
    ----------
    table
        :data:`PRICED_BY` of merged calls.
    version
        Of the prices; the calls whose cost is the same keep the version that they have.
    read_ms
        When the calls were read, by the store's clock: of two computations at the same version, what was
        read later knows more of a call.
    """
    texts = _Texts()
    lane = _reported(table, texts)
    again = _repriced(table, texts)
    before = _better(again, lane)
    made = costs(_as_it_ended(table, lane), book, version)
    now = _stored(made, texts, read_ms)
    differs = (now.version > 0) & (
        (now.amounts != before.amounts).any(axis=0) | (texts.same(now.text) != texts.same(before.text))
    )
    head = now.head()
    # What cannot win when it is merged is not written: a lane or another run knew later prices.
    wins = (head >= lane.head()) & (
        (head > again.head()) | ((head == again.head()) & (now.read_ms > again.read_ms))
    )
    changed = differs & wins
    return Repriced(
        reported=lane,
        before=before,
        after=_where(changed, now, before),
        changed=changed,
        newer=differs & ~wins,
        rows=_rows(table, now, np.flatnonzero(changed)),
    )


def counted(table: pa.Table) -> Costs:
    """What counts of the costs that are stored; shape as the table's."""
    texts = _Texts()
    return _better(_repriced(table, texts), _reported(table, texts))


class Correction:
    """What the aggregates of the cost family lack: costs that count now, less what lanes reported.

    It is a function of the calls that were ever priced again, all of them, however often and in how many
    runs. Chunks hold what lanes reported; both together hold what counts. Series are not limited: a series
    that a chunk counted as ``__other__`` is corrected under its own name.
    """

    def __init__(self) -> None:
        self.calls = 0
        """So many calls were added."""
        self._names: tuple[dict[str, int], ...] = tuple({} for _ in DIMENSIONS)
        self._combinations: dict[tuple[int, ...], int] = {}
        self._slots: dict[tuple[str, str], list[NDArray[np.int64]]] = {}

    def add(self, table: pa.Table) -> None:
        """Add stored calls, each once.

        Parameters
        ----------
        table
            :data:`MEASURED_BY` of merged calls whose ``repriced`` is not empty.
        """
        if table.num_rows:
            texts = _Texts()
            lane = _reported(table, texts)
            self._add(table, lane, _better(_repriced(table, texts), lane))

    def add_priced(self, table: pa.Table, found: Repriced) -> None:
        """Add calls that have just been priced again, as if what changed had been stored and read.

        Parameters
        ----------
        table
            :data:`MEASURED_BY` of all calls that ``found`` speaks of; others than those that were ever
            priced again are left out here.
        """
        has = pc.binary_length(_whole(table["repriced"])).to_numpy(zero_copy_only=False) > 0
        rows = np.flatnonzero(has | found.changed)
        if not len(rows):
            return
        if len(rows) < table.num_rows:
            table = table.take(pa.array(rows))
            self._add(table, _rows_of(found.reported, rows), _rows_of(found.after, rows))
        else:
            self._add(table, found.reported, found.after)

    def _add(self, table: pa.Table, lane: Costs, counted: Costs) -> None:
        self.calls += table.num_rows
        table = _as_it_ended(table, lane)
        minute = numbers(table, "cost_minute")
        window = np.where(minute > 0, minute, numbers(table, "last_at") // _MINUTE_MS)
        cell, place = _distinct(self._combine(table) << _WINDOW_BITS | window)
        found: dict[tuple[str, str], NDArray[np.int64]] = {}
        for costs_of, sign in ((lane, -1), (counted, 1)):
            for signal, (label, rows, values) in spend.select(_as_events(table, costs_of)):
                if not len(rows):
                    continue
                slot = found.setdefault((signal.name, label), np.zeros((2, len(cell)), dtype=np.int64))
                slot[0] += sign * np.bincount(place[rows], minlength=len(cell))
                if values is not None:
                    np.add.at(slot[1], place[rows], sign * values)
        for key, slot in found.items():
            differs = np.flatnonzero(slot.any(axis=0))
            if len(differs):
                self._slots.setdefault(key, []).append(np.vstack([cell[differs], slot[:, differs]]))

    def differences(self) -> pa.Table:
        """What is to be added to the aggregates, by signal, label, series and window.

        Returns
        -------
        ``signal``, ``label``, ``series``, ``window`` (start, in seconds), and ``n`` and ``sum``, which can be
        negative; without those that are both zero, ordered by window and then by the other three.
        """
        numbers: dict[str, int] = {}
        series = [self._series_of(cut, numbers) for cut in CUTS]
        order = np.argsort(np.array(list(numbers), dtype=object), kind="stable")
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        pieces: list[NDArray[np.int64]] = []
        slots = sorted(self._slots)
        for number, (name, label) in enumerate(slots):
            cell, n, total = np.concatenate(self._slots[name, label], axis=1)
            for cut, of_combination in zip(CUTS, series, strict=True):
                if cut.name not in _SIGNALS[name].cuts:
                    continue
                key = rank[of_combination[cell >> _WINDOW_BITS]] << _WINDOW_BITS | (cell & _WINDOW)
                keys, place = _distinct(key)
                sums = np.zeros((2, len(keys)), dtype=np.int64)
                np.add.at(sums[0], place, n)
                np.add.at(sums[1], place, total)
                differs = np.flatnonzero(sums.any(axis=0))
                slot = np.full(len(differs), number, dtype=np.int64)
                pieces.append(np.vstack([slot, keys[differs], sums[:, differs]]))
        slot, key, n, total = np.concatenate(pieces, axis=1) if pieces else np.empty((4, 0), dtype=np.int64)
        window, by = key & _WINDOW, key >> _WINDOW_BITS
        sorting = np.lexsort((by, slot, window))
        of_slot = pa.array(slot[sorting])
        names = np.array(list(numbers), dtype=object)[order]
        return pa.table(
            {
                "signal": pa.array([name for name, _ in slots], pa.string()).take(of_slot),
                "label": pa.array([label for _, label in slots], pa.string()).take(of_slot),
                "series": pa.array(names.tolist(), pa.string()).take(pa.array(by[sorting])),
                "window": pa.array((window[sorting] * WINDOW_S).astype(np.uint32)),
                "n": pa.array(n[sorting]),
                "sum": pa.array(total[sorting]),
            }
        )

    def _combine(self, table: pa.Table) -> Ints:
        """A number for each row's combination of dimensions, the same in every table."""
        key = np.zeros(table.num_rows, dtype=np.int64)
        columns: list[tuple[Ints, Ints]] = []
        size = 1
        for name, known_names in zip(DIMENSIONS, self._names, strict=True):
            codes, names = coded(table, name)
            known = [known_names.setdefault(text, len(known_names)) for text in names]
            columns.append((np.array(known, dtype=np.int64), codes))
            if size * len(names) >= 1 << 62:
                distinct, key = _distinct(key)
                size = len(distinct)
            key, size = key * len(names) + codes, size * len(names)
        distinct, place = _distinct(key)
        first = np.empty(len(distinct), dtype=np.int64)
        first[place] = np.arange(len(place))
        of_first = (known[codes[first]].tolist() for known, codes in columns)
        combinations = zip(*of_first, strict=True)
        numbered = [self._combinations.setdefault(of, len(self._combinations)) for of in combinations]
        return np.array(numbered, dtype=np.int64)[place]

    def _series_of(self, cut: Cut, numbers: dict[str, int]) -> Ints:
        """The number of each combination's series in a cut."""
        names = [list(known) for known in self._names]
        places = [DIMENSIONS.index(dimension) for dimension in cut.dimensions]
        return np.array(
            [
                numbers.setdefault(
                    series_name(cut.name, [names[place][of[place]] for place in places]), len(numbers)
                )
                for of in self._combinations
            ],
            dtype=np.int64,
        )


# -- what a call is priced by --------------------------------------------------------------------


def _as_it_ended(table: pa.Table, lane: Costs) -> pa.Table:
    """Merged calls with the usage of the event that ended each, as far as one can tell."""
    rank = np.maximum(numbers(table, "input_tokens"), numbers(table, "output_tokens")) >> RANK_SHIFT
    # What a stream has brought so far is no usage, unless the event that ended it said so itself.
    running = (rank == RANK_PROGRESS) & ~((lane.version > 0) & (lane.rank == RANK_PROGRESS))
    least = np.where(running, RANK_ESTIMATED, rank)
    for name in _TOKENS:
        if name in table.column_names:
            column = numbers(table, name)
            worse = (column >> RANK_SHIFT) < least
            if (worse & (column != 0)).any():
                table = _set(table, name, pa.array(np.where(worse, 0, column)))
    if "tool_requests" in table.column_names and not pc.any(pc.not_equal(table["tool_requests"], "")).as_py():
        table = table.drop_columns(["tool_requests"])  # reading text row by row is what takes time
    return table


def _as_events(table: pa.Table, found: Costs) -> pa.Table:
    """What the cost family takes from the events that costs came from, as a lane encodes them."""
    columns = {
        name: pa.array(numbers(table, name))
        for name in ("input_tokens", "output_tokens", "reported_cost_nano_usd")
    }
    columns |= {column: pa.array(amount) for column, amount in zip(COLUMNS, found.amounts, strict=True)}
    prices = [f"{'0' * HEAD_DIGITS}{text.rpartition(_END)[0]}" if text else "" for text in found.texts]
    codes = pa.array(found.text.astype(np.int32))
    columns["price"] = pa.DictionaryArray.from_arrays(codes, pa.array(prices, pa.string()))
    return pa.table(columns)


# -- how costs are stored ------------------------------------------------------------------------


class _Texts:
    """Texts of costs by number, and which of them say the same but for the reason."""

    def __init__(self) -> None:
        self.all = [""]
        self._numbers = {"": 0}
        self._same = [0]
        self._sames = {("", ""): 0}

    def number(self, text: str) -> int:
        found = self._numbers.get(text)
        if found is None:
            found = self._numbers[text] = len(self.all)
            self.all.append(text)
            price, _, rest = text.partition("\0")
            # A reason names the price list's version: another wording is no other cost.
            self._same.append(self._sames.setdefault((price, rest.rpartition("\0")[2]), len(self._sames)))
        return found

    def same(self, numbers: Ints) -> Ints:
        """A number for each that is the same where two texts differ in the reason only."""
        of_text: Ints = np.array(self._same, dtype=np.int64)
        return of_text[numbers]


def _stored(columns: dict[str, pa.Array], texts: _Texts, read_ms: int) -> Costs:
    """Costs as :mod:`signals.cost` encodes them."""
    first = columns[next(iter(COLUMNS))].to_numpy().astype(np.int64)
    price = columns["price"]
    if not isinstance(price, pa.DictionaryArray):
        price = price.dictionary_encode()
    head = first >> AMOUNT_BITS
    said = price.dictionary.to_pylist()
    codes = price.indices.to_numpy().astype(np.int64)
    number = np.array([texts.number(text[HEAD_DIGITS:] + "\0" if text else "") for text in said], np.int64)
    text = number[codes] if len(said) else np.zeros(len(first), dtype=np.int64)
    details = columns.get("cost_details")
    if details is not None:
        for row in np.flatnonzero(pc.binary_length(details).to_numpy(zero_copy_only=False)).tolist():
            rare, of = details[row].as_py(), said[codes[row]]
            # Those of a computation that has been replaced may still stand there.
            if rare[:HEAD_DIGITS] == of[:HEAD_DIGITS]:
                text[row] = texts.number(f"{of[HEAD_DIGITS:]}\0{rare[HEAD_DIGITS:]}")
    return Costs(
        rank=head >> VERSION_BITS,
        version=head & ((1 << VERSION_BITS) - 1),
        read_ms=np.full(len(first), read_ms, dtype=np.int64),
        amounts=np.array([columns[name].to_numpy().astype(np.int64) & _AMOUNT for name in COLUMNS]),
        text=text,
        texts=texts.all,
    )


def _reported(table: pa.Table, texts: _Texts) -> Costs:
    names = (*COLUMNS, "price", "cost_details")
    return _stored({name: _whole(table[name]) for name in names}, texts, 0)


def _repriced(table: pa.Table, texts: _Texts) -> Costs:
    """Costs as ``repriced`` holds them; all zeros where it is empty."""
    column = _whole(table["repriced"]).cast(pa.binary())
    length = pc.binary_length(column).to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(length)
    numbers = np.zeros((len(NUMBERS), table.num_rows), dtype=np.int64)
    text = np.zeros(table.num_rows, dtype=np.int64)
    if len(rows):
        found = column.take(pa.array(rows))
        head = b"".join(pc.binary_slice(found, 0, HEAD_BYTES).to_pylist())
        numbers[:, rows] = np.frombuffer(head, dtype=">u8").reshape(len(rows), -1).T.astype(np.int64)
        said = pc.binary_slice(found, HEAD_BYTES, int(length.max())).dictionary_encode()
        number = np.array([texts.number(text.decode()) for text in said.dictionary.to_pylist()], np.int64)
        text[rows] = number[said.indices.to_numpy()]
    rank, version, read_ms = numbers[:3]
    return Costs(rank, version, read_ms, numbers[3 : 3 + len(COLUMNS)], text, texts.all)


def _rows(table: pa.Table, costs: Costs, rows: NDArray[np.intp]) -> pa.Table:
    """What is inserted: keys, and everything else empty, which is what merges with anything."""
    keep = pa.array(rows)
    numbers = np.empty((len(rows), len(NUMBERS)), dtype=">u8")
    total = costs.amounts.sum(axis=0)
    for place, column in enumerate((costs.rank, costs.version, costs.read_ms, *costs.amounts, total)):
        numbers[:, place] = column[rows]
    head = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(HEAD_BYTES), len(rows), [None, pa.py_buffer(numbers.tobytes())]
    )
    used, code = np.unique(costs.text[rows], return_inverse=True)
    said = pa.array([costs.texts[number].encode() for number in used.tolist()], pa.binary())
    repriced = pc.binary_join_element_wise(
        head.cast(pa.binary()), said.take(pa.array(code)), pa.scalar(b"", pa.binary())
    )
    return pa.table(
        {
            "started_at": _whole(table["started_at"]).take(keep).cast(pa.timestamp("ms", "UTC")),
            "call_id": _whole(table["call_id"]).take(keep),
            "repriced": repriced,
        }
    )


def _better(again: Costs, lane: Costs) -> Costs:
    """What counts: the cost that was computed again, unless the lane knew better usage or newer prices."""
    return _where((again.version > 0) & (again.head() >= lane.head()), again, lane)


def _rows_of(costs: Costs, rows: NDArray[np.intp]) -> Costs:
    return Costs(
        rank=costs.rank[rows],
        version=costs.version[rows],
        read_ms=costs.read_ms[rows],
        amounts=costs.amounts[:, rows],
        text=costs.text[rows],
        texts=costs.texts,
    )


def _where(mask: Bools, one: Costs, other: Costs) -> Costs:
    return Costs(
        rank=np.where(mask, one.rank, other.rank),
        version=np.where(mask, one.version, other.version),
        read_ms=np.where(mask, one.read_ms, other.read_ms),
        amounts=np.where(mask, one.amounts, other.amounts),
        text=np.where(mask, one.text, other.text),
        texts=one.texts,
    )


def _distinct(values: Ints) -> tuple[Ints, Ints]:
    """Distinct values and the place of each among them; hashing takes a tenth of what sorting does."""
    encoded = pa.array(values).dictionary_encode()
    return encoded.dictionary.to_numpy(), encoded.indices.to_numpy().astype(np.int64)


def _whole(column: Any) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _set(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, column)
