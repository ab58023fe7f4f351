"""What a reader may ask of the embedded engine: one statement that only reads, from Bursar's own tables. Pure.

Three walls, each of which would do alone: this reading of the text (kind, number of statements, INTO OUTFILE), the
engine's own syntax tree (table functions, functions that read files), and ``readonly=1`` on the connection. The last
does not stop ``INTO OUTFILE``, ``file()`` as a scalar function, ``DESCRIBE TABLE url(...)`` or ``KILL QUERY`` in the
embedded engine, which is why there are three.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

import msgspec

READING_WORDS: Final = frozenset({"SELECT", "WITH", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS"})
_EXPLAIN_KINDS_REFUSED: Final = frozenset({"TABLE", "CURRENT"})
"""EXPLAIN TABLE OVERRIDE connects to another database."""

TABLE_FUNCTIONS: Final = frozenset(
    {"numbers", "numbers_mt", "zeros", "zeros_mt", "generate_series", "generateseries", "values", "sqlstandardvalues"}
    | {"view", "viewexplain"}
)
"""Table functions that make rows out of nothing or out of a query. Any other reads files, addresses or this process."""
_FUNCTIONS_REFUSED: Final = frozenset({"file", "fuzzquery", "hascolumnintable", "catboostevaluate"})
"""Scalar functions that read files, run text as a query, or connect to another server."""
_FUNCTION_PREFIXES_REFUSED: Final = ("ai",)
"""aiGenerate and its like send data to services elsewhere."""

_TOKEN = re.compile(
    r"""
      (?P<space>[ \t\r\n\f\v]+ | --[^\n]* | \#[ !][^\n]* | /\*.*?\*/ )
    | (?P<string>'(?:[^'\\] | \\. | '')*')
    | (?P<quoted>"(?:[^"\\] | \\. | "")*" | `(?:[^`\\] | \\. | ``)*`)
    | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<number>[0-9][A-Za-z0-9_.]*)
    | (?P<end>;)
    | (?P<mark>[!%&()*+,\-.:<=>?@\[\]^{|}~] | /(?!\*))
    """,
    re.VERBOSE | re.DOTALL,
)
_TREE_FUNCTION = re.compile(r"^( *)Function (.+?)(?: \(alias .*\))?(?: \(children \d+\))?$")
_TREE_ROOTS = re.compile(
    r"^(SelectWithUnionQuery|SelectIntersectExceptQuery|SelectQuery|Explain |Describe|Show|Exists|TablePropertiesQuery)"
)


class NotAllowed(Exception):
    """The statement is not for readers; the message says what is. Nothing of it was run."""


class Reading(msgspec.Struct, frozen=True):
    """A statement that reads, as far as its text can tell."""

    sql: str
    """Without the closing FORMAT clause and semicolon."""
    format: str
    """Of the FORMAT clause; empty where there was none."""


class _Token(msgspec.Struct, frozen=True):
    kind: str
    text: str
    start: int
    end: int


def read_statement(sql: str) -> Reading:
    """Check a reader's text. Raises NotAllowed."""
    tokens = list(_tokens(sql))
    while tokens and tokens[-1].kind == "end":
        tokens.pop()
    if not tokens:
        raise NotAllowed("the query is empty")
    if any(token.kind == "end" for token in tokens):
        raise NotAllowed("one statement at a time")
    words = [token.text.upper() if token.kind == "word" else "" for token in tokens]
    first = next((index for index, token in enumerate(tokens) if token.text != "("), 0)
    if words[first] not in READING_WORDS:
        raise NotAllowed("only SELECT, SHOW, DESCRIBE, EXPLAIN and EXISTS are served here")
    if words[first] == "EXPLAIN" and len(words) > first + 1 and words[first + 1] in _EXPLAIN_KINDS_REFUSED:
        raise NotAllowed("this kind of EXPLAIN is not served here")
    for one, two in pairwise(words):
        if one == "INTO" and two == "OUTFILE":
            raise NotAllowed("INTO OUTFILE is not served here; take the answer's body")
    end, output_format = tokens[-1].end, ""
    if len(tokens) > 2 and words[-2] == "FORMAT" and tokens[-1].kind == "word":
        end, output_format = tokens[-3].end, tokens[-1].text
    return Reading(sql=sql[:end], format=output_format)


def _tokens(sql: str) -> Iterator[_Token]:
    """The tokens that count. What ClickHouse might read otherwise than this does (typographic quotes, dollar quotes,
    backslashes outside of strings) is refused rather than guessed."""
    position = 0
    while position < len(sql):
        match = _TOKEN.match(sql, position)
        if match is None:
            raise NotAllowed(f"character {sql[position]!r} at position {position + 1} is not understood here")
        if match.lastgroup != "space":
            yield _Token(match.lastgroup or "", match.group(), position, match.end())
        position = match.end()


def check_tree(lines: Sequence[str]) -> None:
    """Check the engine's own syntax tree (the lines of EXPLAIN AST). Raises NotAllowed."""
    if not lines or not _TREE_ROOTS.match(lines[0]):
        raise NotAllowed("only SELECT, SHOW, DESCRIBE, EXPLAIN and EXISTS are served here")
    for parent, line in zip(["", *lines], lines, strict=False):
        match = _TREE_FUNCTION.match(line)
        if match is None:
            continue
        name = match[2].lower()
        if parent.lstrip().startswith("TableExpression"):
            if name not in TABLE_FUNCTIONS:
                raise NotAllowed(f"table function {match[2]} is not served here")
        elif name in _FUNCTIONS_REFUSED or name.startswith(_FUNCTION_PREFIXES_REFUSED):
            raise NotAllowed(f"function {match[2]} is not served here")
