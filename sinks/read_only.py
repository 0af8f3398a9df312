"""What the user `reader` may run: the views of database `gatewatch`, and nothing that reaches further.

ClickHouse's server has users, grants and read-only profiles for this. The embedded engine has
one user and no grants, and its `readonly=1` stops inserts, definitions and most table functions,
but not the function `file()`, which reads any file of the host while the query is analysed, nor
`INTO OUTFILE`, nor a table outside the views. So a reader's query is read before it runs, and
whatever is not known to be harmless is refused:

1. The engine's parser writes the query in its canonical form, one statement on one line, without
   comments (`formatQuerySingleLine`). That text is what is checked and what runs.
2. The engine shows its syntax tree (`EXPLAIN AST`), which evaluates nothing. Every node must be of
   a kind listed here, every function listed by its category, every table a view of `gatewatch`
   or one of a few system tables that describe the engine.
3. It runs under `readonly=1` with the limits below, which readers can tighten and not widen.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from sinks.embedded import Embedded, EngineError, Session, quote

DATABASE: Final = "gatewatch"

SQL_MAX_CHARACTERS: Final = 1 << 18  # ClickHouse's own max_query_size
RESULT_MAX_ROWS: Final = 10_000_000
RESULT_MAX_BYTES_STREAMED: Final = 8 << 30
RESULT_MAX_BYTES_WHOLE: Final = 256 << 20  # formats with a footer are held in memory
EXECUTION_MAX_S: Final = 30

# System tables that describe the engine and hold no data of its users.
_SYSTEM_TABLES: Final = frozenset(
    {
        "aggregate_function_combinators",
        "build_options",
        "collations",
        "columns",
        "contributors",
        "data_type_families",
        "databases",
        "formats",
        "functions",
        "keywords",
        "licenses",
        "merge_tree_settings",
        "numbers",
        "numbers_mt",
        "one",
        "settings",
        "table_engines",
        "table_functions",
        "tables",
        "time_zones",
        "zeros",
        "zeros_mt",
    }
)
_SCHEMA_TABLES: Final = frozenset({"columns", "schemata", "tables", "views"})

_TABLE_FUNCTIONS: Final = frozenset(
    {"generateSeries", "generate_series", "numbers", "numbers_mt", "values", "view", "zeros", "zeros_mt"}
)

# Categories of system.functions whose functions compute from their arguments alone.
_CATEGORIES: Final = frozenset(
    {
        "Arithmetic",
        "Arrays",
        "Bit",
        "Bitmap",
        "Comparison",
        "Conditional",
        "Dates and Times",
        "Distance",
        "Encoding",
        "Encryption",
        "Financial",
        "Geo",
        "Geo Polygon",
        "Hash",
        "IP Address",
        "JSON",
        "Logical",
        "Map",
        "Mathematical",
        "Null",
        "NumericIndexedVector",
        "QBit",
        "Random Number",
        "Rounding",
        "String",
        "String Replacement",
        "String Search",
        "String Splitting",
        "Time Series",
        "Time Window",
        "Tuple",
        "Type Conversion",
        "URL",
        "UUID",
    }
)
# Of the other categories, one by one.
_FUNCTIONS: Final = frozenset(
    {
        "_CAST",
        "bar",
        "byteSize",
        "caseWithExpression",
        "colorOKLABToSRGB",
        "colorOKLCHToSRGB",
        "colorSRGBToOKLAB",
        "colorSRGBToOKLCH",
        "countDigits",
        "currentDatabase",
        "currentUser",
        "defaultValueOfArgumentType",
        "defaultValueOfTypeName",
        "digits",
        "dumpColumnStructure",
        "errorCodeToName",
        "finalizeAggregation",
        "flipCoordinates",
        "formatReadableDecimalSize",
        "formatReadableQuantity",
        "formatReadableSize",
        "formatReadableTimeDelta",
        "getSetting",
        "getSizeOfEnumType",
        "getSubcolumn",
        "identity",
        "ignore",
        "indexHint",
        "initializeAggregation",
        "isConstant",
        "isDecimalOverflow",
        "lowCardinalityIndices",
        "lowCardinalityKeys",
        "materialize",
        "minSampleSizeContinuous",
        "minSampleSizeConversion",
        "neighbor",
        "normalizedQueryHash",
        "normalizedQueryHashKeepNames",
        "normalizeQuery",
        "normalizeQueryKeepNames",
        "parseISO8601Duration",
        "parseReadableSize",
        "parseReadableSizeOrNull",
        "parseReadableSizeOrZero",
        "parseTimeDelta",
        "queryID",
        "rowNumberInAllBlocks",
        "rowNumberInBlock",
        "runningAccumulate",
        "runningDifference",
        "runningDifferenceStartingWithFirstValue",
        "throwIf",
        "toColumnTypeName",
        "toTypeName",
        "transform",
        "uptime",
        "variantElement",
        "variantType",
        "version",
        "visibleWidth",
    }
)
# In a listed category, or an aggregate, and still not for readers.
_REFUSED_FUNCTIONS: Final = frozenset({"aggThrow", "flameGraph"})

_IN: Final = re.compile(r"(global)?(not)?(null)?in(ignoreset)?", re.IGNORECASE)

_NODES: Final = frozenset(
    {
        "ArrayJoin",
        "Asterisk",
        "ColumnsExceptTransformer",
        "ColumnsListMatcher",
        "ColumnsRegexpMatcher",
        "ColumnsReplaceTransformer",
        "ColumnsReplaceTransformer::Replacement",
        "ColumnsTransformerList",
        "DescribeQuery",
        "Explain",
        "ExpressionList",
        "Function",
        "Identifier",
        "InterpolateElement",
        "Literal",
        "OrderByElement",
        "QualifiedAsterisk",
        "QualifiedColumnsListMatcher",
        "QualifiedColumnsRegexpMatcher",
        "QueryParameter",
        "SampleRatio",
        "SelectIntersectExceptQuery",
        "SelectQuery",
        "SelectWithUnionQuery",
        "Set",
        "Subquery",
        "TableExpression",
        "TableIdentifier",
        "TableJoin",
        "TablesInSelectQuery",
        "TablesInSelectQueryElement",
        "WindowDefinition",
        "WindowListElement",
        "WithElement",
    }
)
_EXPLAIN: Final = re.compile(r"Explain EXPLAIN(?: (?:AST|SYNTAX|QUERY TREE|PLAN|PIPELINE|ESTIMATE))?")
_CHILDREN: Final = re.compile(r" \(children (\d+)\)$")
_NAMED: Final = re.compile(r"(?:Function|TableIdentifier|Identifier) ([\w.]+)(?: \(alias .*\))?")

_TOKEN: Final = re.compile(r"'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`|\w+|\S|\s+")
_IDENTIFIER_PARAMETER: Final = re.compile(r"\{\s*(\w+)\s*:\s*Identifier\s*\}")
_PLAIN_NAME: Final = re.compile(r"\w+(?:\.\w+)?")

_QUOTED: Final = r"'(?:[^'\\]|\\.)*'"
_LIKE: Final = rf"(?: (?:NOT )?I?LIKE {_QUOTED})?(?: LIMIT \d+)?"
_OUTPUT: Final = r"(?: FORMAT `?(?P<format>\w+)`?)?"
_SHOW: Final = re.compile(
    rf"(?:SHOW (?:FULL )?TABLES(?: FROM (?:gatewatch|system))?{_LIKE}"
    rf"|SHOW DATABASES{_LIKE}"
    rf"|SHOW (?:EXTENDED )?(?:FULL )?COLUMNS FROM `?\w+`?(?: FROM `?gatewatch`?)?{_LIKE}"
    rf"|SHOW (?:CHANGED )?SETTINGS{_LIKE}"
    rf"|SHOW FUNCTIONS{_LIKE}"
    rf"|SHOW CREATE (?:TABLE|VIEW) (?:`?gatewatch`?\.)?`?\w+`?"
    rf"|EXISTS (?:TABLE|VIEW) (?:`?gatewatch`?\.)?`?\w+`?){_OUTPUT}"
)
_KILL: Final = re.compile(rf"KILL QUERY WHERE `?query_id`? = (?P<id>{_QUOTED}) (?:ASYNC|SYNC){_OUTPUT}")
# A structure such as 'a Int8, b String'; a declaration could carry an expression.
_STRUCTURE: Final = re.compile(
    r"Literal '(?!.*\b(?i:DEFAULT|MATERIALIZED|ALIAS|EPHEMERAL|CODEC|TTL)\b)[\w\s,()]*'"
)

_TIGHTENED: Final = frozenset(
    {
        "max_execution_time",
        "max_result_rows",
        "max_result_bytes",
        "max_memory_usage",
        "max_rows_to_read",
        "max_bytes_to_read",
        "max_rows_to_group_by",
        "max_block_size",
    }
)
_HARMLESS: Final = frozenset(
    {
        "date_time_output_format",
        "date_time_input_format",
        "extremes",
        "final",
        "group_by_use_nulls",
        "join_use_nulls",
        "low_cardinality_allow_in_native_format",
        "output_format_decimal_trailing_zeros",
        "session_timezone",
        "totals_mode",
        "union_default_mode",
    }
)
# Not by the prefix output_format_ alone: output_format_schema names a file to write.
_HARMLESS_PREFIXES: Final = (
    "output_format_arrow_",
    "output_format_csv_",
    "output_format_json_",
    "output_format_markdown_",
    "output_format_msgpack_",
    "output_format_native_",
    "output_format_parquet_",
    "output_format_pretty_",
    "output_format_tsv_",
)


@dataclass(frozen=True)
class Permitted:
    """A query that `reader` may run.

    Attributes
    ----------
    sql:
        The canonical text: run this, not what the client sent.
    output_format:
        Its FORMAT clause, None without one.
    streams:
        Whether it is a SELECT, whose result can be fetched block by block.
    kill:
        For `KILL QUERY WHERE query_id = '...'`: that identifier. Then nothing is to be run.
    """

    sql: str
    output_format: str | None
    streams: bool
    kill: str | None = None


def limits(*, streams: bool = True) -> dict[str, str]:
    """Give the settings that every reader's query runs under, `readonly=1` last."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    query_bytes = min(1 << 30, memory_bytes // 8)
    return {
        "max_execution_time": str(EXECUTION_MAX_S),
        "timeout_overflow_mode": "throw",
        "max_memory_usage": str(query_bytes),
        "max_result_rows": str(RESULT_MAX_ROWS),
        "max_result_bytes": str(RESULT_MAX_BYTES_STREAMED if streams else RESULT_MAX_BYTES_WHOLE),
        "result_overflow_mode": "throw",
        "max_temporary_data_on_disk_size_for_query": str(2 << 30),
        "max_threads": "1",
        # Gives way to a worker's insert, whose priority is 1 (docs/engine.md has the measurement).
        # Not os_thread_priority: chDB left a pooled thread niced after the query had ended.
        "priority": "10",
        "use_query_cache": "0",
        "allow_introspection_functions": "0",
        "readonly": "1",
    }


def reader_settings(asked: Mapping[str, str], *, streams: bool) -> dict[str, str]:
    """Join what a reader asks for with the limits.

    Raises
    ------
    EngineError
        164 (READONLY) for a setting that readers may not change, 26 for a limit that is no number.
    """
    settings = limits(streams=streams)
    for name, value in asked.items():
        if name == "readonly" and value in ("1", "2"):
            continue
        if name in _TIGHTENED:
            if not value.isascii() or not value.isdigit():
                raise EngineError(
                    26, "CANNOT_PARSE_NUMBER", f"Setting {name} wants a whole number, not {value[:40]!r}"
                )
            most = int(settings.get(name, "0"))
            given = int(value)
            settings[name] = str(min(given or most, most) if most else given)
        elif name in _HARMLESS or name.startswith(_HARMLESS_PREFIXES):
            settings[name] = value
        else:
            raise EngineError(164, "READONLY", f"Cannot modify '{name[:60]}' setting in readonly mode")
    readonly = settings.pop("readonly")
    return settings | {"readonly": readonly}


@dataclass(frozen=True)
class Catalogue:
    """What the engine has, as far as a check needs it.

    Attributes
    ----------
    views:
        Names of the views of database `gatewatch`.
    others:
        What else is in that database; nothing, unless somebody put it there.
    databases:
        All databases, lower case.
    """

    views: frozenset[str]
    others: frozenset[str]
    databases: frozenset[str]


@dataclass
class Node:
    """A node of the syntax tree as EXPLAIN AST prints it."""

    text: str
    children: list[Node] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """The kind of node: the first word."""
        return self.text.split(" ", 1)[0]

    @property
    def name(self) -> str:
        """The name of a function, table or column.

        Raises
        ------
        EngineError
            It has characters that cannot be told apart from the tree's own.
        """
        found = _NAMED.fullmatch(self.text)
        if not found:
            raise _refused(f"a name that cannot be checked: {self.text[:80]!r}")
        return found[1]


class Guard:
    """Checks readers' queries. One for an engine; any thread may use it."""

    def __init__(self, engine: Embedded) -> None:
        self._engine = engine
        self._parsers: queue.SimpleQueue[Session] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._catalogue: Catalogue | None = None
        self._epoch = 0
        self._known: OrderedDict[tuple[str, tuple[tuple[str, str], ...]], Permitted] = OrderedDict()
        self._functions = Functions.load(engine)

    def close(self) -> None:
        """Give the engine sessions back."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._parsers.get_nowait().close()

    def forget(self) -> None:
        """Note that the schema may have changed."""
        with self._lock:
            self._epoch += 1
            self._catalogue = None
            self._known.clear()

    def check(
        self, sql: str, bindings: Mapping[str, str] | None = None, database: str | None = None
    ) -> Permitted:
        """Decide whether `reader` may run a query.

        Parameters
        ----------
        sql:
            One statement.
        bindings:
            Values of its `{name:Type}` parameters, as the HTTP interface gives them.
        database:
            The database that the client asked for; only `gatewatch` can be.

        Raises
        ------
        EngineError
            62 for what does not parse, 497 (ACCESS_DENIED) for what is refused, with the reason.
        """
        if database not in (None, "", "default", "__default__", DATABASE):
            raise _refused(f"database {str(database)[:60]!r}: views are in {DATABASE}")
        if len(sql) > SQL_MAX_CHARACTERS:
            raise EngineError(62, "SYNTAX_ERROR", f"Query is longer than {SQL_MAX_CHARACTERS} characters")
        values = dict(bindings or {})
        key = (sql, tuple(sorted(values.items())))
        with self._lock:
            known = self._known.get(key)
            epoch = self._epoch
            if known is not None:
                self._known.move_to_end(key)
                return known
        with self._parser() as parser:
            permitted = self._check(parser, sql, values)
        with self._lock:
            if epoch == self._epoch and len(sql) < 1 << 14:
                self._known[key] = permitted
                while len(self._known) > 512:
                    self._known.popitem(last=False)
        return permitted

    @contextlib.contextmanager
    def _parser(self) -> Iterator[Session]:
        try:
            parser = self._parsers.get_nowait()
        except queue.Empty:
            parser = self._engine.session(limits(), database=None)
        try:
            yield parser
        finally:
            self._parsers.put(parser)

    def _check(self, parser: Session, sql: str, bindings: dict[str, str]) -> Permitted:
        canonical = _canonical(parser, sql)
        _check_tokens(canonical, bindings)
        killed = _KILL.fullmatch(canonical)
        if killed:
            return Permitted(canonical, killed["format"], False, kill=_unquote(killed["id"]))
        if canonical.startswith(("SHOW ", "EXISTS ")):
            shown = _SHOW.fullmatch(canonical)
            if not shown:
                raise _refused(
                    f"{canonical[:40]!r}: SHOW serves TABLES, COLUMNS, CREATE VIEW and such of {DATABASE}"
                )
            return Permitted(canonical, shown["format"], False)
        root = parse_tree(parser.text("EXPLAIN AST " + canonical, bindings))
        self._walk(root)
        output_format = None
        for extra in root.children[1:] if root.kind != "Explain" else root.children:
            if extra.kind == "Identifier":
                output_format = extra.name
        return Permitted(canonical, output_format, root.kind == "SelectWithUnionQuery")

    # ---- the walk -------------------------------------------------------------------------------

    def _walk(self, root: Node) -> None:
        if root.kind == "Explain":
            if not _EXPLAIN.fullmatch(root.text):
                raise _refused(root.text)
            bodies = [child for child in root.children if child.kind not in ("Set", "Identifier")]
            if len(bodies) != 1 or bodies[0].kind != "SelectWithUnionQuery":
                raise _refused("EXPLAIN of anything but a SELECT")
            root = bodies[0]
        elif root.kind not in ("SelectWithUnionQuery", "DescribeQuery"):
            raise _refused(f"{root.kind}: SELECT, EXPLAIN, DESCRIBE and SHOW are")
        elif [child.kind for child in root.children[1:]] not in ([], ["Identifier"]):
            raise _refused("INTO OUTFILE, or a SETTINGS clause (give settings as parameters of the URL)")
        catalogue = self._read_catalogue()
        higher_order = False
        columns: list[str] = []
        todo: list[tuple[Node, Node]] = [(root, root)]
        while todo:
            node, parent = todo.pop()
            kind = node.kind
            if kind not in _NODES:
                raise _refused(_describe(kind))
            if kind == "Set":
                raise _refused("a SETTINGS clause (give settings as parameters of the URL)")
            if kind in ("Explain", "DescribeQuery") and node is not root:
                raise _refused(kind)
            if kind == "TableIdentifier":
                self._check_table(node.name, catalogue)
            elif kind == "Function" and parent.kind == "TableExpression":
                self._check_table_function(node, catalogue)
            elif kind == "Function":
                higher_order |= self._functions.check(node.name)
                if _IN.fullmatch(node.name):
                    _check_in(node, self._check_table, catalogue)
            elif kind == "Identifier" and node is not root:
                columns.append(node.text)
                _check_column(node.text, catalogue)
            todo += [(child, node) for child in node.children]
        if higher_order:
            # arrayMap(file, [...]) names its function without calling it.
            for text in columns:
                name = text.removeprefix("Identifier ").split(" (alias ")[0]
                if self._functions.is_refused(name):
                    raise _refused(f"{name}: as an argument here it could mean the function of that name")

    def _check_table(self, name: str, catalogue: Catalogue) -> None:
        database, dot, table = name.partition(".")
        if not dot:
            # A common table expression or an object of the current database, which is `gatewatch`.
            if name in catalogue.others:
                raise _refused(f"{name}: reader reads views")
            return
        if name in catalogue.others:
            raise _refused(f"{name}: reader reads views")
        if database == DATABASE and table not in catalogue.others:
            return
        if database == "system" and table in _SYSTEM_TABLES:
            return
        if database in ("information_schema", "INFORMATION_SCHEMA") and table.lower() in _SCHEMA_TABLES:
            return
        raise _refused(f"{name}: reader reads the views of {DATABASE} and tables that describe the engine")

    def _check_table_function(self, node: Node, catalogue: Catalogue) -> None:
        name = node.name
        if name.removeprefix(f"{DATABASE}.") in catalogue.views:
            return
        if name not in _TABLE_FUNCTIONS:
            raise _refused(f"table function {name}")
        if name == "values":
            arguments = node.children[0].children if node.children else []
            if (
                arguments
                and arguments[0].text.startswith("Literal '")
                and not _STRUCTURE.fullmatch(arguments[0].text)
            ):
                raise _refused("values() with this structure")

    def _read_catalogue(self) -> Catalogue:
        with self._lock:
            catalogue, epoch = self._catalogue, self._epoch
        if catalogue is not None:
            return catalogue
        rows = self._engine.administer(
            f"SELECT engine, name FROM system.tables WHERE database = {quote(DATABASE)} "
            "UNION ALL SELECT 'database', name FROM system.databases"
        )
        found = [line.split("\t", 1) for line in rows.split("\n") if line]
        catalogue = Catalogue(
            views=frozenset(name for engine, name in found if engine == "View"),
            others=frozenset(name for engine, name in found if engine not in ("View", "database")),
            databases=frozenset(name.lower() for engine, name in found if engine == "database"),
        )
        with self._lock:
            if epoch == self._epoch:
                self._catalogue = catalogue
        return catalogue


@dataclass(frozen=True)
class Functions:
    """The engine's functions and which of them a reader may call.

    Attributes
    ----------
    allowed:
        Name to whether it takes a function as argument.
    refused:
        Every other function, lower case.
    insensitive:
        Lower-case name to name, for functions whose case does not matter.
    aggregates:
        Names of aggregate functions, which take combinators.
    combinators:
        Their suffixes, such as If and State.
    """

    allowed: Mapping[str, bool]
    refused: frozenset[str]
    insensitive: Mapping[str, str]
    aggregates: frozenset[str]
    combinators: tuple[str, ...]

    @classmethod
    def load(cls, engine: Embedded) -> Functions:
        """Read them from the engine."""
        rows = engine.administer(
            "SELECT name, is_aggregate, case_insensitive, alias_to, origin, categories, higher_order "
            "FROM system.functions"
        )
        found = [line.split("\t") for line in rows.split("\n") if line]
        of = {row[0]: row for row in found}
        allowed: dict[str, bool] = dict.fromkeys(("lambda", "exists", "untuple"), False)
        for name, aggregate, _, alias_to, origin, _, _ in found:
            target = of.get(alias_to, of[name])
            if origin != "System" or target[0] in _REFUSED_FUNCTIONS:
                continue
            if aggregate == "1" or target[5] in _CATEGORIES or target[0] in _FUNCTIONS:
                allowed[name] = target[6] not in ("0", "")
        return cls(
            allowed=allowed,
            refused=frozenset(name.lower() for name in of if name not in allowed),
            insensitive={row[0].lower(): row[0] for row in found if row[2] == "1"},
            aggregates=frozenset(row[0] for row in found if row[1] == "1" and row[0] in allowed),
            combinators=tuple(
                engine.administer("SELECT name FROM system.aggregate_function_combinators").split()
            ),
        )

    def check(self, name: str) -> bool:
        """Refuse a function that is not listed; True when it takes functions as arguments."""
        found = self._find(name)
        if found is not None:
            return self.allowed[found]
        base = name
        while True:
            suffix = next((s for s in self.combinators if base.endswith(s) and base != s), None)
            if suffix is None:
                raise _refused(f"function {name}")
            base = base[: -len(suffix)]
            found = self._find(base)
            if found is not None and found in self.aggregates:
                return False

    def is_refused(self, name: str) -> bool:
        """Whether a name is that of a function readers may not call."""
        return name.lower() in self.refused

    def _find(self, name: str) -> str | None:
        if name in self.allowed:
            return name
        insensitive = self.insensitive.get(name.lower())
        return insensitive if insensitive in self.allowed else None


def parse_tree(text: str) -> Node:
    """Read what EXPLAIN AST prints: a node a line, indented by its depth.

    Raises
    ------
    EngineError
        The lines do not make a tree whose nodes have the number of children they announce.
    """
    root = Node("")
    path = [root]
    announced: list[tuple[Node, int]] = []
    # Not splitlines(): it also splits at U+2028 and the like, which a name may hold.
    for line in text.split("\n"):
        if not line:
            continue
        depth = len(line) - len(line.lstrip(" "))
        body = line[depth:]
        found = _CHILDREN.search(body)
        node = Node(body[: found.start()] if found else body)
        announced.append((node, int(found[1]) if found else 0))
        if depth + 1 > len(path):
            raise _refused("a query whose syntax tree cannot be read")
        del path[depth + 1 :]
        path[depth].children.append(node)
        path.append(node)
    if len(root.children) != 1 or any(len(node.children) != count for node, count in announced):
        raise _refused("a query whose syntax tree cannot be read")
    return root.children[0]


def _canonical(parser: Session, sql: str) -> str:
    escaped = sql.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\0", "\\0")
    try:
        text = parser.text("SELECT formatQuerySingleLine({q:String})", {"q": escaped})
    except EngineError as error:
        message = str(error).split(": In scope SELECT formatQuerySingleLine", 1)[0]
        raise EngineError(error.code, error.name, message) from None
    return text.removesuffix("\n")


def _check_tokens(canonical: str, bindings: Mapping[str, str]) -> None:
    if any(ord(character) < 32 or ord(character) == 127 for character in canonical):
        raise _refused("control characters")
    bare = []
    for token in _TOKEN.findall(canonical):
        if token.startswith("`"):
            if "\\" in token or " (alias " in token or " (children " in token:
                raise _refused(f"the name {token[:60]}")
        elif not token.startswith("'"):
            bare.append(token)
    text = "".join(bare)
    words = set(re.findall(r"\w+", text))
    if "OUTFILE" in words:
        raise _refused("INTO OUTFILE")
    if "APPLY" in words:
        raise _refused("APPLY: name the columns")
    for name in _IDENTIFIER_PARAMETER.findall(text):
        if not _PLAIN_NAME.fullmatch(bindings.get(name, "")):
            raise _refused(
                f"the value of parameter {name[:60]}: an identifier of letters and digits is wanted"
            )


def _check_in(node: Node, check_table: object, catalogue: Catalogue) -> None:
    """`x IN t` reads table t, though the tree shows a plain identifier."""
    assert callable(check_table)
    for arguments in node.children[:1]:
        for argument in arguments.children[1:]:
            if argument.kind == "Identifier":
                check_table(argument.name, catalogue)


def _check_column(text: str, catalogue: Catalogue) -> None:
    name = text.removeprefix("Identifier ")
    database, dot, _ = name.partition(".")
    if dot and database.lower() in catalogue.databases and database != DATABASE:
        raise _refused(f"{name[:80]}: reader reads the views of {DATABASE}")


def _describe(kind: str) -> str:
    return {
        "InsertQuery": "INSERT",
        "ParallelWithQuery": "PARALLEL WITH",
        "ColumnsApplyTransformer": "APPLY",
    }.get(kind, kind)


def _unquote(literal: str) -> str:
    return re.sub(r"\\(.)", r"\1", literal[1:-1])


def _refused(what: str) -> EngineError:
    return EngineError(497, "ACCESS_DENIED", f"Not available to reader: {what}")
