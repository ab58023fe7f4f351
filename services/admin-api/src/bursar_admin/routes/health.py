"""Probes, and the page at ``/`` that tells a person what this is."""

from __future__ import annotations

from aiohttp import web

from bursar_admin.answers import HealthAnswer
from bursar_admin.desk import Desk
from bursar_admin.requests import json_answer
from bursar_admin.routes import Route

PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Bursar</title><meta name="viewport" content="width=device-width"></head>
<body>
<h1>Bursar</h1>
<p>The open spend gateway for Claude Code: every request is attributed, priced, capped and recorded.</p>
<p>This is the admin API. Its description: <a href="/api/openapi.json">/api/openapi.json</a>.</p>
<h2>Create a team with a budget, and a key in it</h2>
<pre>
curl -s $BURSAR/api/governance/teams -H 'content-type: application/json' \\
  -d '{"name":"platform-engineering","budget":{"max_limit":500.00,"reset_duration":"1M"}}'

curl -s $BURSAR/api/governance/virtual-keys -H 'content-type: application/json' \\
  -d '{"name":"alice","team_id":"TEAM_ID","budget":{"max_limit":100.00,"reset_duration":"1M"}}'
</pre>
<h2>See what it has spent</h2>
<pre>
curl -s $BURSAR/api/governance/virtual-keys
</pre>
<p><code>BURSAR</code> is this page's address. Where an admin token is set, add
<code>-H "authorization: Bearer $BURSAR_ADMIN_TOKEN"</code>.</p>
</body>
</html>
"""


def routes(desk: Desk) -> list[Route]:
    async def livez(_request: web.Request) -> web.Response:
        return json_answer({"status": "ok"})

    async def readyz(_request: web.Request) -> web.Response:
        if desk.journal.failure:
            return json_answer({"status": "unready", "why": desk.journal.failure}, status=503)
        return json_answer({"status": "ok"})

    async def root(_request: web.Request) -> web.Response:
        response = web.Response(text=PAGE, content_type="text/html")
        response.headers["Content-Security-Policy"] = "default-src 'none'; frame-ancestors 'none'"
        return response

    return [
        Route("GET", "/livez", livez, "livez", "Whether the process runs.", HealthAnswer, probe=True),
        Route("GET", "/readyz", readyz, "readyz", "Whether it has read the governance log.", HealthAnswer, probe=True),
        Route("GET", "/", root, "root", "What this is.", open_page=True),
    ]
