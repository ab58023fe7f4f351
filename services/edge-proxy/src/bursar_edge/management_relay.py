"""On one machine the public port is the edge's: what is not the edge's goes to admin-api, as it came.

Hop-by-hop headers end here; ``Host`` and ``Origin`` pass, because admin-api checks them."""

from __future__ import annotations

import structlog
from aiohttp.client_exceptions import ClientError

from bursar_common.wire import Refused
from bursar_edge.bodies import BodyMemory, Limits, read_body
from bursar_edge.exchange import send
from bursar_edge.health import Neighbour
from bursar_edge.incoming import Incoming, answer_headers
from bursar_edge.link import NoAnswer, NotConnected, Reply, exchange
from bursar_edge.refusals import say
from bursar_edge.restarting_page import HEADERS as RESTARTING_HEADERS
from bursar_edge.restarting_page import restarting, wants_page
from bursar_edge.tunnel import tunnel
from bursar_edge.upstream import HOP_BY_HOP, listed_in_connection

log = structlog.get_logger()

ANSWER_S = 120.0
"""Until the head of an answer: a report may take long."""


async def relay_to_admin(
    incoming: Incoming, admin: Neighbour, limits: Limits, memory: BodyMemory, request_id: str
) -> None:
    """Forward one request to admin-api and its answer back. Raises BodyProblem, ClientGone."""
    body, lease = await read_body(incoming, limits, memory)
    try:
        ends_here = HOP_BY_HOP | listed_in_connection(incoming.headers)
        parts = [f"{incoming.method} {incoming.target} HTTP/1.1\r\n".encode("utf-8", "surrogateescape")]
        for name, value in incoming.raw_headers:
            if name.lower() not in ends_here and name.lower() not in (b"content-length", b"expect"):
                parts += (name, b": ", value, b"\r\n")
        if body or incoming.method in ("POST", "PUT", "PATCH"):
            parts.append(b"content-length: %d\r\n" % len(body))
        upgrade = _upgrade(incoming)
        if upgrade:
            parts.append(b"connection: upgrade\r\nupgrade: " + upgrade + b"\r\n")
        parts.append(b"\r\n")
        try:
            reply = await exchange(
                admin.connector,
                admin.origin,
                b"".join(parts),
                body,
                answer_s=ANSWER_S,
                no_body=incoming.method == "HEAD",
            )
        except (NotConnected, NoAnswer) as problem:
            log.warning("admin_unreachable", why=str(problem), request_id=request_id)
            _unreachable(incoming, request_id)
            return
    finally:
        lease.release()
    if upgrade and reply.status == 101:
        await tunnel(incoming, reply)
    else:
        await _back(incoming, reply)


def _unreachable(incoming: Incoming, request_id: str) -> None:
    said = say(Refused("admin_unreachable"), request_id)
    if not wants_page(incoming.headers):
        send(incoming, said, request_id)
        return
    ids = [header for header in answer_headers(request_id) if header[0] != b"content-type"]
    headers = [(b"content-type", b"text/html; charset=utf-8"), *ids, *RESTARTING_HEADERS]
    incoming.answer(said.status, headers, restarting(incoming.headers, request_id))


def _upgrade(incoming: Incoming) -> bytes:
    """What the client wants to switch to, empty if nothing."""
    names = incoming.headers.get("connection", "").lower()
    value = incoming.headers.get("upgrade", "")
    return value.encode("utf-8", "surrogateescape") if value and "upgrade" in names else b""


async def _back(incoming: Incoming, reply: Reply) -> None:
    ends_here = HOP_BY_HOP | listed_in_connection(reply.headers)
    headers = [
        each for each in reply.raw_headers if each[0].lower() not in ends_here and each[0].lower() != b"content-length"
    ]
    length = reply.headers.get("content-length")
    try:
        if incoming.method == "HEAD" or reply.status in (204, 304):
            incoming.start(reply.status, reply.reason, headers, length=int(length) if length else None)
            reply.release()
            return
        incoming.start(reply.status, reply.reason, headers, length=int(length) if length else None)
        while True:
            try:
                chunk = await reply.body.readany()
            except (ClientError, OSError, RuntimeError):
                incoming.abort()
                reply.close()
                return
            if not chunk:
                break
            incoming.write(chunk)
            await incoming.drain()
        incoming.end()
    except BaseException:
        reply.close()
        raise
    reply.release()
