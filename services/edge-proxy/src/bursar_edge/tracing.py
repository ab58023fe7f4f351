"""The spans of one request, written when its answer is over, from times taken on its way.

Three of them: the request as the client sees it (below the client's own span, if it sent ``traceparent``), below it
its admission and the call of the provider. The enforcer adds its own below the admission. Attributes are named by
OpenTelemetry's HTTP and GenAI conventions, and ``bursar.*`` where those have no name. A figure that is added up stands
on one span only: cost on the request's, tokens on the provider call's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from bursar_common.events import Usage
from bursar_common.spans import CLIENT, SERVER, Context, attribute, known_attribute, read_context, span
from bursar_common.tracing import Tracing, new_id
from bursar_edge.link import Origin
from bursar_edge.usage_event import Facts

ROUTE = "/v1/messages"
_COMMON = (
    known_attribute("http.request.method", "POST"),
    known_attribute("http.route", ROUTE),
    known_attribute("url.path", ROUTE),
)
_CHAT = known_attribute("gen_ai.operation.name", "chat")
_OWNERS = (
    ("bursar.key", "virtual_key"),
    ("bursar.key_id", "virtual_key_id"),
    ("bursar.team", "team"),
    ("bursar.team_id", "team_id"),
    ("bursar.customer", "customer"),
    ("bursar.user_id", "user_id"),
    ("gen_ai.conversation.id", "session_id"),
)
"""On both spans, so that either can be grouped by them; empty ones are left out."""
_ATTRIBUTION = (
    ("bursar.agent_id", "agent_id"),
    ("bursar.project", "project"),
    ("bursar.repository", "repository"),
    ("bursar.environment", "environment"),
    ("bursar.cost_center", "cost_center"),
    ("bursar.billing", "billing"),
    ("bursar.refused_by", "refused_by"),
)


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
        owners = _named(usage, _OWNERS)
        spans = [self._request_span(facts, usage, outcome, reason, owners)]
        if self.asked_ns:
            spans.append(self._admission_span(facts, reason))
        if self.sent_ns and usage is not None:
            spans.append(self._provider_span(facts, usage, owners))
        self._tracing.export.add(*spans)

    def _request_span(self, facts: Facts, usage: Usage | None, outcome: str, reason: str, owners: list[bytes]) -> bytes:
        attributes = [
            *_COMMON,
            *owners,
            attribute("bursar.request_id", facts.request_id),
            known_attribute("bursar.outcome", outcome),
            known_attribute("gen_ai.request.model", facts.head.model),
        ]
        status = facts.status
        if status is not None:
            attributes.append(known_attribute("http.response.status_code", status))
        error_type = facts.error_type
        if usage is not None:
            error_type = usage.error_type
            attributes += _named(usage, _ATTRIBUTION)
            attributes += (
                known_attribute("bursar.provider", usage.provider),
                known_attribute("bursar.estimated", usage.estimated),
                attribute("bursar.cost_nusd", usage.cost_nusd),
                attribute("bursar.list_cost_nusd", usage.list_cost_nusd),
            )
            for name, value in usage.tags.items():
                attributes.append(attribute(f"bursar.tag.{name}", value))
        elif reason:
            attributes.append(known_attribute("bursar.refused_by", reason))
        if error_type:
            attributes.append(known_attribute("error.type", error_type))
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

    def _provider_span(self, facts: Facts, usage: Usage, owners: list[bytes]) -> bytes:
        assert facts.admitted is not None
        attributes = [
            _CHAT,
            *owners,
            known_attribute("gen_ai.provider.name", facts.admitted.route.kind),
            known_attribute("gen_ai.request.model", usage.requested_model),
            known_attribute("bursar.estimated", usage.estimated),
            attribute("bursar.request_id", facts.request_id),
        ]
        if usage.max_tokens is not None:
            attributes.append(known_attribute("gen_ai.request.max_tokens", usage.max_tokens))
        if usage.stream:
            attributes.append(known_attribute("gen_ai.request.stream", True))
            if facts.first_byte_ms is not None:
                waited_s = max(facts.first_byte_ms / 1e3 - self.sent_ns / 1e9, 0.0)
                attributes.append(attribute("gen_ai.response.time_to_first_chunk", waited_s))
        reader = facts.reader
        if reader is not None and reader.model:
            attributes.append(known_attribute("gen_ai.response.model", reader.model))
        if usage.message_id:
            attributes.append(attribute("gen_ai.response.id", usage.message_id))
        if usage.upstream_request_id:
            attributes.append(attribute("bursar.upstream_request_id", usage.upstream_request_id))
        attributes += _tokens(usage)
        if self.to is not None and (host := self.to.url.host):
            attributes.append(known_attribute("server.address", host))
            if (port := self.to.url.port) is not None:
                attributes.append(known_attribute("server.port", port))
        status = usage.status
        failed = usage.outcome in ("unknown", "upstream_error") or bool(usage.error_type)
        if status is not None:
            attributes.append(known_attribute("http.response.status_code", status))
        if failed:
            attributes.append(known_attribute("error.type", usage.error_type or usage.outcome))
        return span(
            Context(self.context.trace_id, new_id(8), True, self.context.state),
            self.context.span_id,
            f"chat {usage.requested_model}",
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
        attribute("gen_ai.usage.input_tokens", usage.input_tokens + read + written),
        attribute("gen_ai.usage.cache_read.input_tokens", read),
        attribute("gen_ai.usage.cache_creation.input_tokens", written),
        attribute("gen_ai.usage.output_tokens", usage.output_tokens or 0),
        attribute("gen_ai.usage.reasoning.output_tokens", usage.thinking_tokens or 0),
    ]


def _named(usage: Usage | None, names: tuple[tuple[str, str], ...]) -> list[bytes]:
    if usage is None:
        return []
    return [known_attribute(name, value) for name, field in names if (value := getattr(usage, field))]


def begin_trace(tracing: Tracing, headers: Mapping[str, str]) -> RequestTrace | None:
    """The trace of a request that just came; None: it is not recorded."""
    parent = read_context(headers.get("traceparent"), headers.get("tracestate"))
    context = tracing.begin(parent)
    return RequestTrace(tracing, context, parent) if context is not None else None
