"""Secrets taken out of texts by pattern. Pure.

Every expression is RE2's: matching takes time linear in the text whatever the expression, and gives up the interpreter
lock meanwhile. All built-in ones are searched for at once, in one pass at 100 MB/s and more where nothing is found.

A text may be source code, a log, JSON, or JSON within JSON; so boundaries accept escapes (``\\n``), and quotes may have
backslashes before them. Rather too much is taken out than too little.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import re2

from bursar_edge.redaction_rules import ASSIGNED, end_of, is_code

MAX_PATTERNS: Final = 32
MAX_PATTERN_CHARS: Final = 500
"""Of an operator's expression: RE2 makes programs of a few thousand steps of them, which is bounded again below."""
MAX_PATTERN_MEMORY: Final = 8 << 20
"""Bytes of an operator's compiled expression with its automaton."""
BUILT_IN_MEMORY: Final = 64 << 20
"""Bound of the automaton of all built-in expressions; about 2 MB are used, and what is not used is not taken."""
MIN_KNOWN_CHARS: Final = 8
"""Shorter values of this request's own credentials are not looked for: they would be words."""
MAX_ROUNDS: Final = 4
"""A match takes along the character before it, which may be all that tells the next secret from a word; so texts are
searched again until nothing is found, which is mostly the second time."""

MAX_SPARED: Final = 5_000
"""Finds of one text that are looked at again, whether they are code; beyond, they are taken out unseen. A look is some
50 us: more of them than a megabyte of source code has would be made to cost time."""

_EDGE: Final = r"(?:^|[^A-Za-z0-9_-]|\\[nrt])"
"""Before prefixes that also end words (``task-``)."""
_Q: Final = r"\\*[\"'`]?"
"""Maybe a quote, maybe escaped."""

BUILT_IN: Final[tuple[tuple[str, str], ...]] = (
    # kind, expression whose one group is the secret
    ("private key", r"(-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----(?s:.*?)"
                    r"(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\z))"),
    ("private key", r"(AGE-SECRET-KEY-1[0-9A-Z]{50,})"),
    ("private key", r"(PuTTY-User-Key-File-(?s:.*?)(?:Private-MAC: *[0-9a-fA-F]+|\z))"),
    ("virtual key", r"(sk-bf-[0-9A-Za-z_-]{8,})"),
    ("anthropic key", r"(sk-ant-[0-9A-Za-z_-]{8,})"),
    ("api key", _EDGE + r"((?:sk|pk|rk)-[0-9A-Za-z][0-9A-Za-z_-]{19,})"),
    ("stripe key", r"((?:sk|rk|pk)_(?:live|test)_[0-9A-Za-z]{10,}|whsec_[0-9A-Za-z+/=]{16,})"),
    ("aws key", r"((?:AKIA|ASIA|ABIA|ACCA|AROA|AIDA)[A-Z0-9]{16})"),
    ("aws key", r"(?i:secret_?access_?key|aws_?secret_?key|secret_?key)" + _Q + r"\s{0,4}(?:=|:|=>)?\s{0,4}" + _Q
                + r"([0-9A-Za-z/+]{40})"),
    ("aws key", r"(?i:session_?token|security_?token)" + _Q + r"\s{0,4}(?:=|:)\s{0,4}" + _Q + r"([0-9A-Za-z/+=]{80,})"),
    ("google key", r"(AIza[0-9A-Za-z_-]{35}|ya29\.[0-9A-Za-z_-]{20,}|GOCSPX-[0-9A-Za-z_-]{20,}"
                   r"|1//0[0-9A-Za-z_-]{30,})"),
    ("azure key", r"(?i:AccountKey|SharedAccessKey)=([0-9A-Za-z+/]{40,}={0,2})"),
    ("azure key", r"[?&]sig=([0-9A-Za-z%+/=]{30,})"),
    ("github token", r"(gh[pousr]_[0-9A-Za-z]{30,}|github_pat_[0-9A-Za-z_]{22,})"),
    ("gitlab token", r"(gl(?:pat|ptt|dt|rt|cbt|soat|oas)-[0-9A-Za-z_.-]{20,})"),
    ("slack token", r"(xox[abeoprs](?:\.xox[a-z])?-[0-9A-Za-z-]{10,}|xapp-[0-9A-Za-z-]{20,}"
                    r"|hooks\.slack\.com/(?:services|workflows)/[0-9A-Za-z/_-]{20,})"),
    ("token", r"(npm_[0-9A-Za-z]{30,}|pypi-[0-9A-Za-z_-]{50,}|hf_[0-9A-Za-z]{30,}|gsk_[0-9A-Za-z]{40,}"
              r"|xai-[0-9A-Za-z_-]{40,}|pplx-[0-9A-Za-z]{40,}|r8_[0-9A-Za-z]{30,}|do[opr]_v1_[0-9a-f]{60,}"
              r"|dapi[0-9a-f]{32}|hv[sbr]\.[0-9A-Za-z_-]{24,}|lin_api_[0-9A-Za-z]{30,}|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}"
              r"|ATATT3[0-9A-Za-z_=-]{30,}|dop_v1_[0-9a-f]{60,}|nvapi-[0-9A-Za-z_-]{40,}|tvly-[0-9A-Za-z-]{20,}"
              r"|fw_[0-9A-Za-z]{20,}|vercel_[0-9A-Za-z]{20,}|sntrys_[0-9A-Za-z_=+/-]{40,}|NRAK-[0-9A-Z]{27})"),
    ("token", _EDGE + r"(SG\.[0-9A-Za-z_-]{16,}\.[0-9A-Za-z_-]{16,}|SK[0-9a-f]{32}|[0-9]{8,10}:AA[0-9A-Za-z_-]{33})"),
    ("jwt", r"(eyJ[0-9A-Za-z_-]{8,}\.eyJ[0-9A-Za-z_-]{4,}(?:\.[0-9A-Za-z_-]*){1,3})"),
    ("jwt", r"(eyJ[0-9A-Za-z_-]{16,}\.[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]{8,}(?:\.[0-9A-Za-z_-]*){0,2})"),
    ("bearer token", r"(?i:bearer|authorization" + _Q + r"\s{0,4}[:=]\s{0,4}" + _Q
                     + r"(?:basic|token|digest|negotiate))"
                     r"(?:\s|%20|\\[nrt]){1,4}([0-9A-Za-z._~+/-][0-9A-Za-z._~+/=-]{11,})"),
    ("credential", r"(?i:x-api-key|api-key|x-auth-token|private-token|x-bf-vk|set-cookie|cookie)" + _Q
                   + r"\s{0,4}[:=]\s{0,4}" + _Q + r"([^\s\"'`\\\[$<{][^\s\"'`\\]{7,})"),
    ("password in url", r":(?:/|\\/){2}[^\s/@:\"'`\\<>]*:([^\s/@\"'`<>\[]+)@"),
    ("password", r"(?i:\bcurl)\s[^\n]{0,200}?(?:-u|-U|--user|--proxy-user)[\s=]{0,4}" + _Q
                 + r"[^\s:\"'`\\]{0,100}:([^\s\"'`\\$<\[][^\s\"'`\\]*)"),
)  # fmt: skip

_PREFIXES: Final = {b"sk-bf-": "virtual key", b"sk-ant": "anthropic key"}
"""Secrets that a wider expression finds a character earlier, by their own name all the same."""


class BadPattern(ValueError):
    """An operator's expression that cannot be used. The message says which by its number, and why."""


class Redactor:
    """``extra``: an operator's expressions, one a line. Raises BadPattern."""

    def __init__(self, extra: str = "") -> None:
        options = re2.Options()
        options.max_mem = BUILT_IN_MEMORY
        options.log_errors = False
        self._kinds = [kind for kind, _ in BUILT_IN] + ["password"] * len(ASSIGNED)
        self._rules = [""] * len(BUILT_IN) + [rule for rule, _ in ASSIGNED]
        expressions = [text for _, text in (*BUILT_IN, *ASSIGNED)]
        self._built_in = re2.compile("|".join(f"(?:{text})" for text in expressions).encode(), options)
        self._extra = [_compiled(number, line) for number, line in enumerate(_lines(extra), 1)]

    def redact(self, text: str, known: Sequence[str] = ()) -> tuple[str, int]:
        """The text without secrets, and how many were taken out. ``known``: values that are secrets of this request,
        whatever they look like."""
        count = 0
        for value in known:
            if len(value) >= MIN_KNOWN_CHARS and value in text:
                count += text.count(value)
                text = text.replace(value, "[redacted: credential]")
        data = text.encode("utf-8", "replace")
        found, spared = False, 0
        for _ in range(MAX_ROUNDS):
            data, replaced, spared = self._once(self._built_in, data, None, spared)
            if not replaced:
                break
            count, found = count + replaced, True
        for pattern in self._extra:
            data, replaced, _ = self._once(pattern, data, "by a pattern of this installation", 0)
            count, found = count + replaced, found or replaced > 0
        return (data.decode("utf-8", "replace") if found else text), count

    def _once(self, pattern: Any, data: bytes, kind: str | None, spared: int) -> tuple[bytes, int, int]:
        """The text, how many were taken out, and how many finds were code so far."""
        parts: list[bytes] = []
        end = at = 0
        while (match := pattern.search(data, at)) is not None:
            group = next((number for number in range(1, pattern.groups + 1) if match.start(number) >= 0), 0)
            start, stop = match.span(group)
            if stop <= start:
                at = max(match.end(), match.start() + 1)
                continue
            rule = "" if kind else self._rules[group - 1]
            if rule and spared < MAX_SPARED and is_code(rule, data, match.start(), start, stop):
                spared += 1
                at = start - 1  # what stands there may be a secret by itself, behind an edge
                continue
            stop = end_of(rule, data, stop)
            word = kind or _PREFIXES.get(data[start : start + 6]) or self._kinds[group - 1]
            parts += (data[end:start], b"[redacted: " + word.encode() + b"]")
            end = at = stop
        if not parts:
            return data, 0, spared
        parts.append(data[end:])
        return b"".join(parts), len(parts) // 2, spared


def _lines(text: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > MAX_PATTERNS:
        raise BadPattern(f"{len(lines)} patterns are given, and {MAX_PATTERNS} are the most.")
    return lines


def _compiled(number: int, text: str) -> Any:
    if len(text) > MAX_PATTERN_CHARS:
        raise BadPattern(f"Pattern {number} has {len(text)} characters, and {MAX_PATTERN_CHARS} are the most.")
    options = re2.Options()
    options.max_mem = MAX_PATTERN_MEMORY
    options.log_errors = False
    try:
        pattern = re2.compile(text.encode(), options)
    except (re2.error, UnicodeError):
        raise BadPattern(f"Pattern {number} is not a regular expression in RE2's syntax.") from None
    if pattern.search(b"") is not None:
        raise BadPattern(f"Pattern {number} matches the empty text: it would take out nothing, everywhere.")
    return pattern
