"""What a person sees while admin-api restarts: a page that says so and asks again by itself. Pure."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from html import escape

from bursar_edge.link import Header

AGAIN_S = 3
"""Between two attempts of the page: a restart takes a few seconds."""
_STYLE = (
    ":root{color-scheme:light dark}"
    "body{margin:0;background:#fafaf9;color:#1c1917;"
    'font:14px/22px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}'
    "main{max-width:560px;margin:16vh auto;padding:0 24px}"
    "h1{font-size:20px;line-height:28px;margin:0 0 10px}p{margin:0 0 10px}"
    "code{font:12px/18px ui-monospace,Menlo,Consolas,monospace}a{color:#0f766e}small{color:#57534e}"
    "@media(prefers-color-scheme:dark){body{background:#0c0a09;color:#fafaf9}a{color:#2dd4bf}small{color:#a8a29e}}"
)
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{b64encode(sha256(_STYLE.encode()).digest()).decode()}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS: tuple[Header, ...] = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", _POLICY.encode()),
    (b"referrer-policy", b"same-origin"),
    (b"retry-after", b"%d" % AGAIN_S),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)


def wants_page(headers: Mapping[str, str]) -> bool:
    """Whether a browser asks for a page, or for a part of one that it puts into it."""
    return "hx-request" in headers or "text/html" in headers.get("accept", "")


def restarting(headers: Mapping[str, str], request_id: str) -> bytes:
    """The page; of a part of one, a sentence in its place."""
    if "hx-request" in headers:
        return b'<p class="failure">The pages restart. Traffic is not affected; reload in a moment.</p>'
    return _PAGE.replace("{request_id}", escape(request_id)).encode()


_PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Restarting · Bursar</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="{AGAIN_S}">
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>Bursar's pages restart</h1>
<p>The part that serves them does not answer yet. This page asks again every {AGAIN_S} seconds, by itself.</p>
<p>Requests to models are not affected: they go on, and are charged and recorded as always.</p>
<p>Not coming back? <a href="/healthz">/healthz</a> says which part is down; <code>bursar doctor</code> says why.</p>
<p><small>Request {{request_id}}</small></p>
</main>
</body>
</html>
"""
