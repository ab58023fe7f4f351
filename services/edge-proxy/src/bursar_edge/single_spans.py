"""Requests that are one span: those that cost nothing, and those refused before anybody was asked for admission."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from bursar_common.spans import SERVER, Span, Value, read_context, told
from bursar_common.tracing import Tracing
from bursar_edge.incoming import ClientGone, Incoming
from bursar_edge.routes import Kind, route
from bursar_edge.tracing import ROUTE, RequestTrace, owners_of

log = structlog.get_logger()

_ROUTES: dict[Kind, str] = {
    "messages": ROUTE,
    "count_tokens": f"{ROUTE}/count_tokens",
    "models": "/v1/models",
    "model": "/v1/models/{model_id}",
    "none": "",
}
"""What is traced, and the route a span names. Of an address that is none of ours nothing is told."""
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


async def traced(tracing: Tracing, incoming: Incoming, answer: Callable[[Incoming], Awaitable[None]]) -> None:
    """Answer a request, and write its trace if it is one that is recorded; a paid request writes its own."""
    headers = incoming.headers
    parent = read_context(headers.get("traceparent"), ",".join(headers.getall("tracestate", ())))
    context = tracing.begin(parent)
    kind: Kind = "none" if context is None else route(incoming.method, incoming.target).kind
    if context is None or kind not in _ROUTES:
        await answer(incoming)
        return
    trace = incoming.trace = RequestTrace(tracing, context, parent)
    left = False
    try:
        await answer(incoming)
    except (ClientGone, asyncio.CancelledError):
        left = True
        raise
    except Exception:
        trace.status, trace.reason = trace.status or 500, "internal"
        raise
    finally:
        if not trace.whole:
            trace.ended()
            try:
                tracing.export.add(_span(trace, incoming, kind, left=left))
            except Exception:  # whatever it is: the request has been answered
                log.exception("trace_not_written", request_id=incoming.request_id)


def _span(trace: RequestTrace, incoming: Incoming, kind: Kind, *, left: bool) -> Span:
    at, status, parent = _ROUTES[kind], trace.status, trace.parent
    method = incoming.method if incoming.method in _METHODS else "_OTHER"
    if left:
        outcome = "gone" if status is None else "interrupted"
    elif trace.reason:
        outcome = "refused"
    else:
        outcome = "upstream_error" if status is None or status >= 400 else "completed"
    attributes: dict[str, Value | None] = {
        "http.request.method": method,
        "http.route": at,
        "url.path": at if kind != "model" else None,
        "http.response.status_code": status,
        "gen_ai.request.model": trace.model,
        "bursar.request_id": incoming.request_id,
        "bursar.outcome": outcome,
        "bursar.refused_by": trace.reason,
        **owners_of(trace.owners),
    }
    return Span(
        trace.context,
        parent.span_id if parent is not None else "",
        f"{'HTTP' if method == '_OTHER' else method} {at}".rstrip(),
        SERVER,
        trace.started_ns,
        trace.ended_ns,
        told(attributes),
        error=status is not None and status >= 500,
        parent_is_remote=parent is not None,
    )
