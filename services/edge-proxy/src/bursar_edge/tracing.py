"""The spans of one request, written when its answer is over, from times taken on its way.

Three of them: the request as the client sees it (below the client's own span, if it sent ``traceparent``), below it
its admission and the call of the provider. The enforcer adds its own below the admission. Attributes are named by
OpenTelemetry's HTTP and GenAI conventions, and ``bursar.*`` where those have no name. A figure that is added up stands
on one span only: cost on the request's, tokens on the provider call's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import lru_cache

import structlog

from bursar_common.events import Usage
from bursar_common.spans import (
    CLIENT,
    MAX_VALUE_CHARS,
    SERVER,
    Context,
    Value,
    attribute,
    known_attribute,
    read_context,
    span,
)
from bursar_common.tracing import Tracing, new_id
from bursar_edge.link import Origin
from bursar_edge.usage_event import Facts

log = structlog.get_logger()

ROUTE = "/v1/messages"
REMEMBERED = 4096
"""Sets of attributes remembered as bytes: each is a key with its session, or a way a request can end; below a kB."""


@lru_cache(maxsize=REMEMBERED)
def _owners(key: str, key_id: str, team: str, team_id: str, customer: str, user_id: str, session: str) -> bytes:
    """Whose it is: on both spans, so that either can be grouped by it. Empty ones are left out."""
    return _joined(
        ("bursar.key", key),
        ("bursar.key_id", key_id),
        ("bursar.team", team),
        ("bursar.team_id", team_id),
        ("bursar.customer", customer),
        ("bursar.user_id", user_id),
        ("gen_ai.conversation.id", session),
    )


@lru_cache(maxsize=REMEMBERED)
def _booked_on(agent: str, project: str, repository: str, environment: str, cost_center: str) -> bytes:
    return _joined(
        ("bursar.agent_id", agent),
        ("bursar.project", project),
        ("bursar.repository", repository),
        ("bursar.environment", environment),
        ("bursar.cost_center", cost_center),
    )


@lru_cache(maxsize=REMEMBERED)
def _request_facts(
    model: str, outcome: str, refused_by: str, status: int | None, error_type: str, provider: str, billing: str
) -> bytes:
    return _joined(
        ("http.request.method", "POST"),
        ("http.route", ROUTE),
        ("url.path", ROUTE),
        ("http.response.status_code", status),
        ("gen_ai.request.model", model),
        ("bursar.outcome", outcome),
        ("bursar.refused_by", refused_by),
        ("bursar.provider", provider),
        ("bursar.billing", billing),
        ("error.type", error_type),
    )


@lru_cache(maxsize=REMEMBERED)
def _call_facts(
    kind: str,
    model: str,
    served: str,
    max_tokens: int | None,
    stream: bool,
    status: int | None,
    error_type: str,
    host: str,
    port: int | None,
) -> bytes:
    return _joined(
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", kind),
        ("gen_ai.request.model", model),
        ("gen_ai.request.max_tokens", max_tokens),
        ("gen_ai.request.stream", stream or None),
        ("gen_ai.response.model", served),
        ("http.response.status_code", status),
        ("server.address", host),
        ("server.port", port),
        ("error.type", error_type),
    )


def _joined(*pairs: tuple[str, Value | None]) -> bytes:
    return b"".join([known_attribute(name, value) for name, value in pairs if value not in (None, "")])


class RequestTrace:
    """One request's ids and times. Unix nanoseconds, by a clock that is not set back within the request."""

    __slots__ = (
        "_admission",
        "_ahead_ns",
        "_tracing",
        "asked_ns",
        "context",
        "decided_ns",
        "ended_ns",
        "parent",
        "sent_ns",
        "started_ns",
        "to",
    )

    def __init__(self, tracing: Tracing, context: Context, parent: Context | None) -> None:
        self._tracing = tracing
        self.context = context
        self.parent = parent
        self._admission = Context(context.trace_id, new_id(8), True, context.state)
        self.started_ns = time.time_ns()
        self._ahead_ns = self.started_ns - time.monotonic_ns()
        self.asked_ns = self.decided_ns = self.sent_ns = self.ended_ns = 0
        self.to: Origin | None = None
        """Where the request goes."""

    def now_ns(self) -> int:
        return time.monotonic_ns() + self._ahead_ns

    def asking(self) -> str:
        """The enforcer is asked now, with this ``traceparent``."""
        self.asked_ns = self.now_ns()
        return self._admission.header

    def decided(self) -> None:
        """The enforcer's answer is there, or nobody waits for it any more."""
        self.decided_ns = self.now_ns()

    def sending(self) -> None:
        """The first byte goes to the provider now."""
        self.sent_ns = self.now_ns()

    def ended(self) -> None:
        """The answer is over."""
        self.ended_ns = self.now_ns()

    def refused(self, facts: Facts, reason: str, usage: Usage | None) -> None:
        """Write the trace of a request that was not admitted; ``usage`` None: nobody's."""
        self.ended()
        self._write(facts, usage, "refused", reason)

    def gone(self, facts: Facts) -> None:
        """Write the trace of a request whose client left before it was admitted."""
        self.ended()
        self._write(facts, None, "gone", "client_gone")

    def recorded(self, facts: Facts, usage: Usage) -> None:
        """Write the trace of a request that was admitted."""
        self._write(facts, usage, usage.outcome, "")

    def _write(self, facts: Facts, usage: Usage | None, outcome: str, reason: str) -> None:
        try:
            self._tracing.export.add(*self._spans(facts, usage, outcome, reason))
        except Exception:  # whatever it is: the request has been answered, and is not to suffer
            log.exception("trace_not_written", request_id=facts.request_id)

    def _spans(self, facts: Facts, usage: Usage | None, outcome: str, reason: str) -> list[bytes]:
        owners = request_id = attribute("bursar.request_id", facts.request_id)
        if usage is not None:
            owners = request_id + _owners(
                usage.virtual_key,
                usage.virtual_key_id,
                usage.team,
                usage.team_id,
                usage.customer,
                usage.user_id,
                usage.session_id,
            )
        spans = [self._request_span(facts, usage, outcome, reason, owners)]
        if self.asked_ns:
            spans.append(self._admission_span(facts, reason))
        if self.sent_ns and usage is not None:
            spans.append(self._provider_span(facts, usage, owners))
        return spans

    def _request_span(self, facts: Facts, usage: Usage | None, outcome: str, reason: str, owners: bytes) -> bytes:
        status, model = facts.status, facts.head.model[:MAX_VALUE_CHARS]
        if usage is None:
            attributes = [owners, _request_facts(model, outcome, reason, status, facts.error_type, "", "")]
        else:
            attributes = [
                owners,
                _request_facts(
                    model,
                    outcome,
                    usage.refused_by,
                    status,
                    usage.error_type[:MAX_VALUE_CHARS],
                    usage.provider,
                    usage.billing,
                ),
                _booked_on(usage.agent_id, usage.project, usage.repository, usage.environment, usage.cost_center),
                known_attribute("bursar.estimated", usage.estimated),
                attribute("bursar.cost_nusd", usage.cost_nusd),
                attribute("bursar.list_cost_nusd", usage.list_cost_nusd),
            ]
            for name, value in usage.tags.items():
                attributes.append(attribute(f"bursar.tag.{name}", value))
        parent = self.parent
        return span(
            self.context,
            parent.span_id if parent is not None else "",
            f"POST {ROUTE}",
            SERVER,
            self.started_ns,
            self.ended_ns,
            attributes,
            error=status is not None and status >= 500,
            parent_is_remote=parent is not None,
        )

    def _admission_span(self, facts: Facts, reason: str) -> bytes:
        admitted = facts.admitted
        attributes = [known_attribute("bursar.admission", "admitted" if admitted is not None else reason)]
        if admitted is not None and admitted.would_refuse:
            attributes.append(known_attribute("bursar.would_refuse", admitted.would_refuse))
        return span(
            self._admission,
            self.context.span_id,
            "admit",
            CLIENT,
            self.asked_ns,
            self.decided_ns or self.ended_ns,
            attributes,
            error=reason == "ledger_unreachable",
        )

    def _provider_span(self, facts: Facts, usage: Usage, owners: bytes) -> bytes:
        assert facts.admitted is not None
        model = usage.requested_model[:MAX_VALUE_CHARS]
        reader, url = facts.reader, self.to.url if self.to is not None else None
        failed = usage.outcome in ("unknown", "upstream_error") or bool(usage.error_type)
        attributes = [
            owners,
            _call_facts(
                facts.admitted.route.kind,
                model,
                reader.model[:MAX_VALUE_CHARS] if reader is not None else "",
                usage.max_tokens,
                usage.stream,
                usage.status,
                (usage.error_type[:MAX_VALUE_CHARS] or usage.outcome) if failed else "",
                (url.host or "") if url is not None else "",
                url.port if url is not None else None,
            ),
            known_attribute("bursar.estimated", usage.estimated),
        ]
        if usage.message_id:
            attributes.append(attribute("gen_ai.response.id", usage.message_id))
        if usage.upstream_request_id:
            attributes.append(attribute("bursar.upstream_request_id", usage.upstream_request_id))
        if usage.stream and facts.first_byte_ms is not None:
            waited_s = max(facts.first_byte_ms / 1e3 - self.sent_ns / 1e9, 0.0)
            attributes.append(attribute("gen_ai.response.time_to_first_chunk", waited_s))
        attributes += _tokens(usage)
        return span(
            Context(self.context.trace_id, new_id(8), True, self.context.state),
            self.context.span_id,
            f"chat {model}",
            CLIENT,
            self.sent_ns,
            self.ended_ns,
            attributes,
            error=failed,
        )


def _tokens(usage: Usage) -> list[bytes]:
    """The conventions count cached tokens into the input; the provider does not."""
    if usage.input_tokens is None:
        return []
    read, written = (
        usage.cache_read_tokens or 0,
        (usage.cache_write_5m_tokens or 0) + (usage.cache_write_1h_tokens or 0),
    )
    return [
        _count("gen_ai.usage.input_tokens", usage.input_tokens + read + written),
        _count("gen_ai.usage.cache_read.input_tokens", read),
        _count("gen_ai.usage.cache_creation.input_tokens", written),
        _count("gen_ai.usage.output_tokens", usage.output_tokens or 0),
        _count("gen_ai.usage.reasoning.output_tokens", usage.thinking_tokens or 0),
    ]


def _count(name: str, value: int) -> bytes:
    return attribute(name, value) if value else known_attribute(name, 0)


def begin_trace(tracing: Tracing, headers: Mapping[str, str]) -> RequestTrace | None:
    """The trace of a request that just came; None: it is not recorded."""
    parent = read_context(headers.get("traceparent"), headers.get("tracestate"))
    context = tracing.begin(parent)
    return RequestTrace(tracing, context, parent) if context is not None else None
