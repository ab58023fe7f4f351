"""The request head: what is read, what is refused, what is cut out."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar_common.wire import ServerTool
from bursar_edge.request_head import MAX_MODEL_CHARS, BadHead, cut_prefix, read_head

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
names = st.sampled_from(
    ["model", "max_tokens", "stream", "speed", "messages", "tools", "system", "metadata", "x", "mod\u0065l2"]
)
DECIDING = ("model", "max_tokens", "stream", "speed")


def spaced(draw_space, text: bytes) -> bytes:
    return draw_space.encode() + text + draw_space.encode()


@given(
    st.lists(st.tuples(names | st.text(max_size=6), values), max_size=8),
    st.sampled_from(["", " ", "\n\t ", "\r\n"]),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_agrees_with_the_json_module(pairs, space, escape_keys, random):
    """Any object: the same fields as json.loads reads, or a refusal exactly where the contract has one."""
    pairs = [*pairs, ("model", "claude-x"), ("max_tokens", 5)]
    random.shuffle(pairs)

    def key(name: str) -> str:
        if escape_keys and name:
            return '"' + "".join(f"\\u{ord(c):04x}" if ord(c) < 0x10000 else json.dumps(c)[1:-1] for c in name) + '"'
        return json.dumps(name)

    text = (
        "{" + ",".join(f"{space}{key(name)}{space}:{space}{json.dumps(value)}" for name, value in pairs) + space + "}"
    )
    try:
        body = text.encode()
    except UnicodeEncodeError:
        return
    given_names = [name for name, _ in pairs]
    parsed = json.loads(body)
    model, max_tokens = parsed["model"], parsed["max_tokens"]
    bad = (
        any(given_names.count(name) > 1 for name in DECIDING)
        or not isinstance(model, str)
        or not 1 <= len(model) <= MAX_MODEL_CHARS
        or not model.isprintable()
        or not isinstance(max_tokens, int)
        or isinstance(max_tokens, bool)
        or not 0 <= max_tokens <= 1_000_000_000
    )
    if bad:
        with pytest.raises(BadHead):
            read_head(body)
        return
    head = read_head(body)
    prefix, slash, rest = model.partition("/")
    has_prefix = bool(slash and prefix)
    assert (head.provider, head.model) == ((prefix, rest) if has_prefix else ("", model))
    assert head.max_tokens == max_tokens
    assert head.stream is (parsed.get("stream") is True)
    if not has_prefix:
        assert head.body is body


@given(st.binary(max_size=60))
def test_any_bytes_give_a_head_or_a_refusal(body):
    try:
        read_head(body)
    except BadHead:
        return
    assert isinstance(json.loads(body), dict)


@pytest.mark.parametrize("null", ["model", "max_tokens", "stream", "speed"])
def test_null_counts_as_an_occurrence(null):
    body = f'{{"model":"a","max_tokens":1,"stream":true,"speed":"fast","{null}":null}}'.encode()
    with pytest.raises(BadHead, match="more than once"):
        read_head(body)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"model":"p/m"}', '{"model":"m"}'),
        ('{"a":{"model":"x/y"},"model" : "p/m/n"}', '{"a":{"model":"x/y"},"model" : "m/n"}'),
        ('{"a":"\\"model\\":\\"q/r\\"","model":"p\\/m"}', '{"a":"\\"model\\":\\"q/r\\"","model":"m"}'),
        ('{"a":1,"a":[1,2],"model":"p/m"}', '{"a":1,"a":[1,2],"model":"m"}'),
        ('{"a":{"b":[1]},"a":0,"model":"p/m"}', '{"a":{"b":[1]},"a":0,"model":"m"}'),
        ('{"\\u006dodel":"p\\u002fm"}', '{"\\u006dodel":"m"}'),
    ],
)
def test_prefix_is_cut_in_place(before, after):
    assert cut_prefix(before.encode()) == after.encode()


def test_no_prefix_where_the_slash_comes_first():
    head = read_head(b'{"model":"/m","max_tokens":1}')
    assert (head.provider, head.model) == ("", "/m")


@pytest.mark.parametrize("kind", ["text", "tool_result", "audio", "image"])
def test_base64_that_is_not_counted_as_media_counts_as_text(kind: str) -> None:
    """A strict bound must hold whatever a provider makes of such a block."""
    block = {"type": kind, "source": {"type": "base64", "data": "A" * 40_000}}
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": [block]}]}
    text_bytes = read_head(json.dumps(body).encode()).features.text_bytes
    assert (text_bytes > 40_000) is (kind != "image")


def test_features_of_what_costs():
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 1000}}
    body = json.dumps(
        {
            "model": "m",
            "max_tokens": 9,
            "speed": "fast",
            "inference_geo": "us",
            "output_config": {"effort": "high"},
            "metadata": {"user_id": "u"},
            "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
            "tools": [
                {"name": "Read", "input_schema": {"type": "object"}},
                {"type": "custom", "name": "x"},
                {"type": "bash_20250124", "name": "bash"},
                {"type": "web_search_20250305", "name": "web_search", "max_uses": 3},
            ],
            "messages": [
                {
                    "role": "user",
                    "content": [image, {"type": "document", "source": {"type": "url", "url": "https://x"}}],
                },
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [image]}]},
                {"role": "user", "content": "text"},
            ],
        }
    ).encode()
    head = read_head(body, betas=("b-1",))
    features = head.features
    assert (features.images, features.documents, features.url_sources) == (2, 1, 1)
    assert features.text_bytes == len(body) - 2000
    assert features.cache_ttl_1h
    assert (features.tools, features.server_tools) == (4, (ServerTool("web_search_20250305", 3),))
    assert (features.speed, features.geo, features.betas, features.unbounded) == ("fast", "us", ("b-1",), "")
    assert (head.effort, head.user_id) == ("high", "u")


@pytest.mark.parametrize(
    ("part", "unbounded"),
    [
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search_20250305"),
        ({"mcp_servers": [{"type": "url", "url": "https://x", "name": "m"}]}, "mcp_servers"),
        ({"context_management": {"edits": [{"type": "compact_20260112"}]}}, "compact_20260112"),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, ""),
        ({"context_management": None, "tools": None, "mcp_servers": []}, ""),
    ],
)
def test_what_has_no_upper_bound_is_named(part, unbounded):
    body = json.dumps({"model": "m", "max_tokens": 1, **part}).encode()
    assert read_head(body).features.unbounded == unbounded


@pytest.mark.parametrize(
    ("part", "offered"),
    [
        ({}, 0),
        ({"tools": None}, 0),
        ({"tools": []}, 0),
        ({"tools": [{"name": "Read"}, {"type": "web_search_20250305", "name": "web_search"}]}, 2),
        ({"tools": [{"name": 5}, "tool", 7]}, 3),
        ({"tools": "all"}, None),
        ({"tools": [{"name": "Read"}], "mcp_servers": [{"type": "url", "url": "https://x", "name": "m"}]}, None),
        ({"tools": [{"name": "Read"}], "mcp_servers": []}, 1),
    ],
)
def test_tools_offered_are_counted_where_that_can_be_told(part, offered):
    assert read_head(json.dumps({"model": "m", "max_tokens": 1, **part}).encode()).tools_offered == offered


def test_odd_shapes_are_counted_as_far_as_they_are_known():
    body = json.dumps(
        {
            "model": "m",
            "max_tokens": 1,
            "messages": [7, {"content": [3, {"type": "image", "source": {"type": "url", "url": 5}}]}],
            "tools": [{"type": "web_search_20250305", "name": 5, "max_uses": "three"}, "tool"],
            "metadata": "none",
        }
    ).encode()
    features = read_head(body).features
    assert (features.images, features.url_sources) == (1, 1)
    assert features.unbounded == "web_search_20250305"
