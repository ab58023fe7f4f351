"""What readers of the embedded ClickHouse may ask, as far as the text and the syntax tree tell."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar_aggregator.statement import NotAllowed, Reading, check_tree, read_statement


@pytest.mark.parametrize(
    ("sql", "reading"),
    [
        ("SELECT 1", Reading("SELECT 1", "")),
        ("  select 1 ; ", Reading("  select 1", "")),
        ("SELECT 1;;", Reading("SELECT 1", "")),
        ("SELECT 1 FORMAT JSON;", Reading("SELECT 1", "JSON")),
        ("SELECT 1 format JSONEachRow -- end", Reading("SELECT 1", "JSONEachRow")),
        ("(SELECT 1) UNION ALL (SELECT 2)", Reading("(SELECT 1) UNION ALL (SELECT 2)", "")),
        ("WITH 1 AS x SELECT x", Reading("WITH 1 AS x SELECT x", "")),
        ("/* c */ SHOW TABLES", Reading("/* c */ SHOW TABLES", "")),
        ("DESC bursar.usage", Reading("DESC bursar.usage", "")),
        ("DESCRIBE TABLE bursar.usage", Reading("DESCRIBE TABLE bursar.usage", "")),
        ("EXISTS bursar.usage", Reading("EXISTS bursar.usage", "")),
        ("EXPLAIN SELECT 1", Reading("EXPLAIN SELECT 1", "")),
        ("SELECT ';', \"a;b\", `c;d`", Reading("SELECT ';', \"a;b\", `c;d`", "")),
        ("SELECT 'it''s \\' fine; INTO OUTFILE'", Reading("SELECT 'it''s \\' fine; INTO OUTFILE'", "")),
        ("SELECT 'Käse' -- ünï; code", Reading("SELECT 'Käse'", "")),
        ("SELECT {name:String}", Reading("SELECT {name:String}", "")),
        ("SELECT format('{}', 1)", Reading("SELECT format('{}', 1)", "")),
        ("SELECT 1 -- ; DROP TABLE x", Reading("SELECT 1", "")),
    ],
)
def test_reading_statements(sql: str, reading: Reading) -> None:
    assert read_statement(sql) == reading


@pytest.mark.parametrize(
    "sql",
    [
        "",
        " -- nothing",
        ";",
        "INSERT INTO bursar.usage_events VALUES (1)",
        "DROP TABLE bursar.usage_events",
        "ALTER TABLE bursar.usage_events DELETE WHERE 1",
        "TRUNCATE TABLE bursar.usage_events",
        "SET readonly = 0",
        "USE system",
        "KILL QUERY WHERE 1",
        "SYSTEM SHUTDOWN",
        "OPTIMIZE TABLE bursar.usage_events",
        "CREATE TABLE x (a Int8) ENGINE = Memory",
        "ATTACH TABLE x",
        "BACKUP DATABASE bursar TO Disk('x', 'y')",
        "GRANT ALL ON *.* TO x",
        "CHECK TABLE bursar.usage_events",
        "EXECUTE AS x SELECT 1",
        "SELECT 1; DROP TABLE x",
        "SELECT 1; SELECT 2",
        "SELECT 1 INTO OUTFILE '/tmp/x'",
        "SELECT 1 into\n/* */ outfile '/tmp/x'",
        "EXPLAIN TABLE OVERRIDE mysql('h', 'd', 't', 'u', 'p') PARTITION BY x",
        "/* SELECT */ DROP TABLE x",
        "-- SELECT\nDROP TABLE x",
        "# SELECT\nDROP TABLE x",
        "SELECT 'open",
        "SELECT 1 /* open",
        "SELECT $$; DROP TABLE x$$",
        "SELECT \u2018a\u2019",
        "SELECT 1 \\G",
        "SELECT 1\x00; DROP TABLE x",
    ],
)
def test_everything_else_is_refused(sql: str) -> None:
    with pytest.raises(NotAllowed):
        read_statement(sql)


@given(st.text(max_size=60))
def test_any_text_is_answered(text: str) -> None:
    try:
        reading = read_statement(text)
    except NotAllowed:
        return
    assert text.startswith(reading.sql)


def test_tree_names_what_is_refused() -> None:
    tree = ["SelectWithUnionQuery (children 1)", "     TableExpression (children 1)", "      Function url (children 1)"]
    with pytest.raises(NotAllowed, match="table function url"):
        check_tree(tree)


@pytest.mark.parametrize(
    "tree",
    [
        [],
        ["InsertQuery   (children 2)"],
        ["DropQuery x"],
        ["SelectWithUnionQuery (children 1)", "  Function file (alias f) (children 1)"],
        ["SelectWithUnionQuery (children 1)", "  Function aiGenerate (children 1)"],
        ["SelectWithUnionQuery (children 1)", "  Function hasColumnInTable (children 1)"],
        ["DescribeQuery (children 1)", " TableExpression (children 1)", "  Function S3 (children 1)"],
    ],
)
def test_trees_that_are_refused(tree: list[str]) -> None:
    with pytest.raises(NotAllowed):
        check_tree(tree)
