"""Calls that cost nothing and are never blocked by a budget: count_tokens, and the list of models."""

from __future__ import annotations

from urllib.parse import parse_qs, unquote

import msgspec
import structlog

from bursar_common.wire import Authorize, Authorized, ModelEntry, Refused
from bursar_edge.admission import LedgerUnreachable
from bursar_edge.attribution import Attribution
from bursar_edge.credentials import own_login, presented
from bursar_edge.exchange import Parts, send
from bursar_edge.head_facts import HeadFacts
from bursar_edge.incoming import Incoming, answer_headers
from bursar_edge.link import AnswerLate, Header, NoAnswer, NotConnected, exchange
from bursar_edge.refusals import say
from bursar_edge.relay import UpstreamCut, relay
from bursar_edge.request_head import RequestHead
from bursar_edge.upstream import AddressRefused, down_headers, listed_in_connection, up_head
from bursar_edge.usage_event import Facts

log = structlog.get_logger()

MAX_LISTED_MODELS = 1000
"""Models of one page, as the provider has it."""


async def who_asks(
    parts: Parts, ask: Authorize, request_id: str, *, decided_later: bool = False
) -> Authorized | Refused:
    """As the enforcer knows the caller; refusals are counted, but those of known owners that are ``decided_later``."""
    try:
        reply = await parts.enforcer.authorize(ask, request_id)
    except LedgerUnreachable as problem:
        log.warning("ledger_unreachable", why=str(problem), request_id=request_id)
        reply = Refused("ledger_unreachable")
    if isinstance(reply, Refused) and reply.owners is None:
        parts.samples.refused(reply.reason, ask.key_hashes, request_id)
    if isinstance(reply, Refused) and (reply.owners is None or not decided_later):
        parts.meter.refused(reply.reason, reply.owners, model=ask.model, provider=ask.provider)
    return reply


async def _authorize(parts: Parts, incoming: Incoming, request_id: str, ask: Authorize) -> Authorized | None:
    """Who asks; None after refusing."""
    who = await who_asks(parts, ask, request_id)
    if incoming.trace is not None:
        incoming.trace.asked(ask, who.owners)
    if isinstance(who, Authorized):
        return who
    send(incoming, say(who, request_id), request_id)
    return None


async def count_tokens(
    parts: Parts,
    incoming: Incoming,
    request_id: str,
    told: HeadFacts,
    head: RequestHead,
) -> None:
    """Forward ``count_tokens`` for a caller who may use the model. Never charged, never recorded."""
    ask = Authorize(told.key_hashes, model=head.model, provider=head.provider)
    who = await _authorize(parts, incoming, request_id, ask)
    if who is None:
        return
    route = who.route
    credential: list[Header] = []
    simulated = route.provider == "anthropic" and bool(parts.upstreams.simulator_url)
    refused: Refused | None = None
    detail = ""
    if route.credential == "client":
        credential, _ = own_login(incoming.headers, who.header)
        refused = None if credential else Refused("no_client_credential")
    elif not simulated:
        resolved = parts.credentials.resolve(route.credential)
        if resolved is not None:
            credential = [(b"x-api-key", resolved.value.encode())]
        elif not parts.upstreams.overridden(route):
            refused = Refused("no_credential", subject=route.provider)
    if refused is None:
        try:
            origin = parts.upstreams.origin(route)
            head_bytes = up_head(
                "POST",
                origin.base_path + told.target,
                origin,
                told.passing,
                credential,
                parts.upstreams.via,
                len(head.body),
                readable=False,
            )
            reply = await exchange(parts.upstreams.connector, origin, head_bytes, head.body, answer_s=parts.answer_s)
        except AddressRefused as problem:
            refused, detail = Refused("upstream_refused", subject=route.provider), str(problem)
        except NotConnected:
            refused = Refused("upstream_unreachable", subject=route.provider)
        except AnswerLate:
            refused = Refused("upstream_silent", subject=route.provider)
        except NoAnswer:
            refused = Refused("upstream_died", subject=route.provider)
    if refused is not None:
        parts.meter.refused(refused.reason, who.owners, model=head.model, provider=route.provider)
        send(incoming, say(refused, request_id, detail=detail), request_id)
        return
    headers = down_headers(reply.raw_headers, listed_in_connection(reply.headers))
    headers.append((b"x-bursar-request-id", request_id.encode()))
    facts = Facts(request_id, parts.clock.now_ms(), head, Attribution({}))
    try:
        await relay(incoming, reply, headers, facts, None, parts.times)
    except UpstreamCut:
        pass


async def list_models(parts: Parts, incoming: Incoming, request_id: str) -> None:
    """``GET /v1/models``: what the caller's key may use, in the provider's shape."""
    who = await _authorize(parts, incoming, request_id, Authorize(presented(incoming.headers), list_models=True))
    if who is None:
        return
    query = parse_qs(incoming.target.partition("?")[2])
    models = list(who.models)
    after, before = query.get("after_id", [""])[0], query.get("before_id", [""])[0]
    ids = [model.id for model in models]
    if after in ids:
        models = models[ids.index(after) + 1 :]
    if before in ids:
        models = models[: ids.index(before)]
    limit_text = query.get("limit", ["20"])[0]
    limit = min(max(int(limit_text), 1), MAX_LISTED_MODELS) if limit_text.isdigit() and len(limit_text) < 6 else 20
    page = models[:limit]
    body = msgspec.json.encode(
        {
            "data": [_shape(model) for model in page],
            "has_more": len(models) > len(page),
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
        }
    )
    incoming.answer(200, answer_headers(request_id), body)


async def one_model(parts: Parts, incoming: Incoming, request_id: str, target: str) -> None:
    """``GET /v1/models/<id>``."""
    who = await _authorize(parts, incoming, request_id, Authorize(presented(incoming.headers), list_models=True))
    if who is None:
        return
    wanted = unquote(target.partition("?")[0][len("/v1/models/") :])
    found = next((model for model in who.models if model.id == wanted), None)
    if found is None:
        send(incoming, say(Refused("model_not_found", subject=wanted[:200]), request_id), request_id)
        return
    incoming.answer(200, answer_headers(request_id), msgspec.json.encode(_shape(found)))


def _shape(model: ModelEntry) -> dict[str, str]:
    # The provider itself writes the epoch where it does not know a model's date.
    return {
        "type": "model",
        "id": model.id,
        "display_name": model.display_name or model.id,
        "created_at": "1970-01-01T00:00:00Z",
    }
