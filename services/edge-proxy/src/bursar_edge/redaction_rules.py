"""What is assigned to a name that says ``password``: the expressions that find it, and what of it is code after all.

An expression sees a name, a sign and a value. Whether ``password: string`` is a type or a bad password no expression of
RE2's can tell; so what one finds is looked at again here, a few bytes around it at most. Pure.
"""

from __future__ import annotations

import re
from typing import Final

_Q: Final = r"\\*[\"'`]?"
"""Maybe a quote, maybe escaped."""
_LOCKS: Final = r"passwo?r?d|passphrase|passwd|pwd|secret"
_WORDS: Final = r"(?:" + _LOCKS + r"|token|api_?key|access_?key|private_?key|auth_?key|credentials?)"
_NAME: Final = r"(?:[_-]?(?:value|key|hash|prod|production|staging|stage|dev|test|live|main|old|new|[0-9]{1,3}))?" + _Q
"""What may follow such a word in a name and leave it the name of a secret: ``token_url`` and ``tokens`` are none."""
_ASSIGNED: Final = r"\s{0,4}(?::=|=>|[:=])\s{0,4}"
_NOT_IN: Final = r"\s\"'`\\<>{}()\[\],;&|"
_FIRST: Final = r"[^0-9$/~.=:*" + _NOT_IN + r"]"
_OTHER: Final = r"[^0-9" + _NOT_IN + r"]"
_ANY: Final = r"[^" + _NOT_IN + r"]"
_MIXED: Final = (
    r"(?:" + _FIRST + r"(?:" + _OTHER + r"{0,3}[0-9]" + _ANY + r"{4}|" + _OTHER + r"[0-9]" + _ANY + r"{3}|"
    + _OTHER + r"{2}[0-9]" + _ANY + r"{2}|" + _OTHER + r"{3}[0-9]" + _ANY + r"|" + _OTHER + r"{4,64}[0-9])"
    r"|[0-9]{1,32}[A-Za-z]" + _ANY + r"{4})"
)  # fmt: skip
"""Letters and digits, six at least: neither a word of prose nor a number. What may fail is bounded in length, here and
below: were it not, each secret inside a long run would have the rest of the run searched again."""

_SPACED: Final = r"[ \t]{0,4}[:=][ \t]{0,8}"
_LINE_END: Final = r"[ \t]{0,4}(?:\r?\n|\\[nr]|\z)"

ASSIGNED: Final[tuple[tuple[str, str], ...]] = (
    # rule, expression whose one group is the value
    ("environment", r"(?:PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|API_?KEY|ACCESS_KEY|PRIVATE_KEY|AUTH_KEY)"
                    r"[A-Z0-9_]*=" + _Q + r"([^\s\"'`\\$<>{}()\[\],;&|][^\s\"'`\\<>{}()\[\],;&|]{5,255})"),
    ("quoted", r"(?i:" + _WORDS + r")\\*[\"']\s{0,4}(?::|=>|=)\s{0,4}\\*[\"']"
               r"([^\"'\\\[$<{\s][^\"'\\\s]{5,})\\*[\"']"),
    ("quoted", r"(?i:" + _WORDS + _NAME + r")" + _ASSIGNED + r"\\*[\"'`]"
               r"([^\"'`\\\[$<{\s][^\"'`\\\s]{5,255})\\*[\"'`]"),
    ("bare", r"(?i:" + _WORDS + _NAME + r")" + _ASSIGNED + r"(" + _MIXED + _ANY + r"{0,255})"
             r"(?:[\s\"'`\\<>,;&|)}\]]|\z)"),
    ("long", r"(?i:" + _WORDS + _NAME + r")" + _ASSIGNED + _Q + r"(" + _FIRST + _ANY + r"{255,})"),
    ("bare", r"(?i:" + _LOCKS + r")=(" + _FIRST + _ANY + r"{5,127})(?:[\s\"'`\\&;]|\z)"),
    # the last of its line, as in YAML, INI and properties: no digits needed
    ("line", r"(?i:(?:" + _LOCKS + r")" + _NAME + r")" + _SPACED + r"(" + _FIRST + _ANY + r"{5,127})" + _LINE_END),
    # of tokens and keys only what is longer than the names that code gives things
    ("line", r"(?i:" + _WORDS + _NAME + r")" + _SPACED + r"(" + _FIRST + r"[0-9A-Za-z_+/=-]{15,127})" + _LINE_END),
)  # fmt: skip
"""In any case: in quotes whatever it is; bare, what is no word, number or call; anything after ``password=``, and
where it is a line of its own."""

LOOKED_AROUND_BYTES: Final = 120
"""How far before a name its line may begin."""

_CREDENTIAL_WORDS: Final = frozenset((
    "password", "passwd", "passphrase", "pwd", "pass", "secret", "secrets", "token", "tokens", "key", "keys",
    "apikey", "credential", "credentials", "cred", "creds", "auth", "hash",
))  # fmt: skip
_RECEIVERS: Final = frozenset((
    "self", "this", "cls", "args", "arg", "kwargs", "options", "opts", "opt", "params", "param", "config", "cfg",
    "conf", "settings", "setting", "env", "environ", "process", "request", "req", "response", "res", "ctx",
    "context", "user", "account", "form", "data", "body", "payload", "props", "state", "session", "client", "app",
    "db", "event", "input", "values", "fields", "os", "sys", "secrets", "vault", "creds", "credentials", "module",
    "super", "parent", "cli", "flags", "flag", "model", "instance", "obj", "std", "parser", "lexer", "scanner",
))  # fmt: skip
# values of languages, types, and what schemas, forms and fetch() say of a password
CODE_WORDS: Final = frozenset((
    "none", "null", "nil", "true", "false", "undefined", "string", "optional", "object", "number", "boolean",
    "integer", "bigint", "symbol", "unknown", "never", "varchar", "varchar2", "nvarchar", "bytes", "bytearray",
    "bytestring", "buffer", "char", "charfield", "textfield", "stringfield", "passwordfield", "secretstr",
    "secretbytes", "text", "any", "void", "default", "required", "hidden", "include", "omit", "same-origin",
    "inherit", "readonly", "nullable", "redacted", "masked", "example", "placeholder", "password", "passwd",
    "passphrase", "secret", "token", "credential", "credentials", "apikey", "api_key", "username", "identifier",
    "function", "struct", "interface", "static", "public", "private", "protected", "const", "lambda", "await",
    "return", "uint8array", "vec<u8>", "option", "result",
))  # fmt: skip
_NAMES_OF_OTHER_THINGS: Final = re.compile(
    rb"_(?:URL|URI|FILE|PATH|DIR|NAME|TYPE|TTL|EXPIRY|EXPIRES|SECONDS|MINUTES|HOURS|DAYS|LENGTH|MIN|MAX|HASHERS?|"
    rb"ALGORITHM|POLICY|MANAGER|PROVIDER|HEADER|FIELD|PREFIX|SUFFIX|ENDPOINT|ISSUER|AUDIENCE|ARN|REF|VERSION|ENABLED|"
    rb"REQUIRED|LIMIT|COUNT|TIMEOUT|HOST|PORT|SERVICE|STORE|BACKEND|ENGINE|FORMAT|LOCATION|REGION|VALIDATORS?)=$"
)
"""Ends of environment variables' names that speak of a secret and hold none."""
_IDENTIFIER: Final = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*(?:\??(?:\.|::|->)[A-Za-z_$][A-Za-z0-9_$]*)*[?!]?")
_TYPE: Final = re.compile(r"(?:[A-Z][a-z]{2,}){2,}|[A-Z][A-Za-z0-9]*(?:\.[A-Z][A-Za-z0-9_]*)+")
_PIECE: Final = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+(?![a-z])")
_CAMEL: Final = re.compile(r"[a-z]+(?:[A-Z][a-z]{2,})+")
_BEFORE_NAME: Final = re.compile(
    rb"(?:[ \t]*[0-9]{1,7}(?:\xe2\x86\x92|\t))?[ \t+-]*(?:[-*][ \t]+)?(?:(?i:export|set|env)[ \t]+)?"
    rb"[\"'`]?[A-Za-z0-9_.-]*"
)
"""What a line may begin with: a number of Claude Code's, a diff's sign, a list's dash, ``export``, the name itself."""
_REST: Final = re.compile(rb"[^\s\"'`\\<>{}()\[\],;&|]*")
_PROPERTY: Final = re.compile(rb"[A-Za-z0-9]=")
_ENDS_LINE: Final = re.compile(rb"[ \t]*(?:\r?\n|\\[rn]|\Z)")
_LOCK: Final = re.compile(rb"(?i:" + _LOCKS.encode() + rb")")


def is_code(rule: str, data: bytes, name_at: int, start: int, stop: int) -> bool:
    """Whether what an expression of ``rule`` took for a value, from ``start`` to ``stop``, is code or prose. Its name
    begins at ``name_at``, or before."""
    if rule == "long":
        return False
    value = data[start:stop].decode("utf-8", "replace")
    low = value.lower()
    if low.rstrip(".!?:") in CODE_WORDS or not low.strip("x*.-_#"):
        return True
    if rule == "quoted":
        return False
    if rule == "environment":
        return data[stop : stop + 1] in (b"(", b"[") or _NAMES_OF_OTHER_THINGS.search(data[name_at:start]) is not None
    begins_line = _BEFORE_NAME.fullmatch(data, _line_start(data, name_at), name_at) is not None
    if _IDENTIFIER.fullmatch(value) is not None:
        # Code has spaces around the sign of a line of its own, and a comma behind an argument's.
        is_property = begins_line and _PROPERTY.match(data, start - 2) is not None and _ENDS_LINE.match(data, stop)
        if _is_member(value) or (not is_property and _names_credential(value)):
            return True
    if rule == "line":
        if not begins_line:
            return True
        if _LOCK.match(data, name_at) is None:  # a token or key is random; what code calls such a thing is not
            return _CAMEL.fullmatch(value) is not None or _TYPE.fullmatch(value) is not None
        return _TYPE.fullmatch(value) is not None
    return False


def end_of(rule: str, data: bytes, stop: int) -> int:
    """Where a value ends that was found up to ``stop``. One of a rule whose finds may be code has a longest length, so
    that a run of names and values is not searched to its end from each of them; a secret is taken out to its end."""
    if rule != "environment":
        return stop
    rest = _REST.match(data, stop)
    return rest.end() if rest is not None else stop


def _line_start(data: bytes, at: int) -> int:
    earliest = max(0, at - LOOKED_AROUND_BYTES)
    real, written = data.rfind(b"\n", earliest, at), data.rfind(b"\\n", earliest, at)
    return max(earliest, real + 1 if real >= 0 else 0, written + 2 if written >= 0 else 0)


def _is_member(identifier: str) -> bool:
    first, dot, _ = identifier.replace("?.", ".").replace("::", ".").replace("->", ".").partition(".")
    return bool(dot) and first.lower().strip("_$") in _RECEIVERS


def _names_credential(identifier: str) -> bool:
    """Whether code calls something so: a name of several words, with one for a credential among them."""
    words = re.split(r"[_.:>?-]+", identifier)
    pieces = [piece.lower() for word in words for piece in _PIECE.findall(word)]
    return (len(pieces) > 1 or "_" in identifier) and not _CREDENTIAL_WORDS.isdisjoint(pieces)
