"""The spans of one request, written when its answer is over, from times taken on its way.

Three of them: the request as the client sees it (below the client's own span, if it sent ``traceparent``), below it
its admission and the call of the provider. The enforcer adds its own below the admission. Attributes are named by
OpenTelemetry's HTTP and GenAI conventions, and ``bursar.*`` where those have no name. A figure that is added up stands
on one span only: cost on the request's, tokens on the provider call's.

What becomes of requests without an admission: ``single_spans``.
"""

from __future__ import annotations

import time

import structlog

from bursar_common.events import Usage
from bursar_common.spans import CLIENT, MAX_VALUE_CHARS, SERVER, Context, Span, Value, told
from bursar_common.tracing import Tracing, new_id
from bursar_common.wire import Authorize, Owners
from bursar_edge.link import Origin
from bursar_edge.usage_event import Facts

log = structlog.get_logger()

ROUTE = "/v1/messages"


class RequestTrace:
    """One request's ids and times. Unix nanoseconds, by a clock that is not set back within the request."""

    __slots__ = (
        "_admission",
        "_ahead_ns",
        "asked_ns",
        "context",
        "decided_ns",
        "ended_ns",
        "model",
        "owners",
        "parent",
        "reason",
        "sent_ns",
        "started_ns",
        "status",
        "to",
        "tracing",
        "whole",
    )

    def __init__(self, tracing: Tracing, context: Context, parent: Context | None) -> None:
        self.tracing = tracing
        self.context = context
        self.parent = parent
        self._admission = Context(context.trace_id, new_id(8), True, context.state)
        self.started_ns = time.time_ns()
        self._ahead_ns = self.started_ns - time.monotonic_ns()
        self.asked_ns = self.decided_ns = self.sent_ns = self.ended_ns = 0
        self.to: Origin | None = None
        """Where the request goes."""
        self.status: int | None = None
        """Of the answer whose head went out."""
        self.reason = ""
        """Of the refusal that was sent."""
        self.model = ""
        self.owners: Owners | None = None
        """Whose it is, of a request that costs nothing."""
        self.whole = False
        """Whether this is a paid request's: it writes its trace when it ends, whatever is answered."""

    def taken_over(self) -> RequestTrace:
        """A paid request's own way begins."""
        self.whole = True
        return self

    def asked(self, ask: Authorize, owners: Owners | None) -> None:
        """Who asks, of a request that costs nothing; None: nobody's."""
        self.model, self.owners = ask.model, owners

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
            self.tracing.export.add(*self._spans(facts, usage, outcome, reason))
        except Exception:  # whatever it is: the request has been answered, and is not to suffer
            log.exception("trace_not_written", request_id=facts.request_id)

    def _spans(self, facts: Facts, usage: Usage | None, outcome: str, reason: str) -> list[Span]:
        owners = {"bursar.request_id": facts.request_id, **owners_of(usage)}
        spans = [self._request_span(facts, usage, outcome, reason, owners)]
        if self.asked_ns:
            spans.append(self._admission_span(facts, reason))
        if self.sent_ns and usage is not None:
            spans.append(self._provider_span(facts, usage, owners))
        return spans

    def _request_span(
        self, facts: Facts, usage: Usage | None, outcome: str, reason: str, owners: dict[str, Value | None]
    ) -> Span:
        status = facts.status
        attributes: dict[str, Value | None] = {
            "http.request.method": "POST",
            "http.route": ROUTE,
            "url.path": ROUTE,
            "http.response.status_code": status,
            "gen_ai.request.model": facts.head.model,
            "bursar.outcome": outcome,
            "bursar.refused_by": reason,
            "error.type": facts.error_type,
            **owners,
        }
        if usage is not None:
            attributes |= {
                "bursar.refused_by": usage.refused_by,
                "error.type": usage.error_type,
                "bursar.provider": usage.provider,
                "bursar.billing": usage.billing,
                "bursar.agent_id": usage.agent_id,
                "bursar.project": usage.project,
                "bursar.repository": usage.repository,
                "bursar.environment": usage.environment,
                "bursar.cost_center": usage.cost_center,
                "bursar.estimated": usage.estimated,
                "bursar.cost_nusd": usage.cost_nusd,
                "bursar.list_cost_nusd": usage.list_cost_nusd,
            }
            for name, value in usage.tags.items():
                attributes[f"bursar.tag.{name}"] = value
        parent = self.parent
        return Span(
            self.context,
            parent.span_id if parent is not None else "",
            f"POST {ROUTE}",
            SERVER,
            self.started_ns,
            self.ended_ns,
            told(attributes),
            error=status is not None and status >= 500,
            parent_is_remote=parent is not None,
        )

    def _admission_span(self, facts: Facts, reason: str) -> Span:
        admitted = facts.admitted
        return Span(
            self._admission,
            self.context.span_id,
            "admit",
            CLIENT,
            self.asked_ns,
            self.decided_ns or self.ended_ns,
            told(
                {
                    "bursar.admission": "admitted" if admitted is not None else reason,
                    "bursar.would_refuse": admitted.would_refuse if admitted is not None else None,
                }
            ),
            error=reason == "ledger_unreachable",
        )

    def _provider_span(self, facts: Facts, usage: Usage, owners: dict[str, Value | None]) -> Span:
        assert facts.admitted is not None
        reader, url = facts.reader, self.to.url if self.to is not None else None
        failed = usage.outcome in ("unknown", "upstream_error") or bool(usage.error_type)
        waited_s = None
        if usage.stream and facts.first_byte_ms is not None:
            waited_s = max(facts.first_byte_ms / 1e3 - self.sent_ns / 1e9, 0.0)
        attributes: dict[str, Value | None] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": facts.admitted.route.kind,
            "gen_ai.request.model": usage.requested_model,
            "gen_ai.request.max_tokens": usage.max_tokens,
            "gen_ai.request.stream": usage.stream or None,
            "gen_ai.response.model": reader.model if reader is not None else None,
            "gen_ai.response.id": usage.message_id,
            "gen_ai.response.time_to_first_chunk": waited_s,
            "http.response.status_code": usage.status,
            "server.address": url.host if url is not None else None,
            "server.port": url.port if url is not None else None,
            "error.type": (usage.error_type or usage.outcome) if failed else None,
            "bursar.estimated": usage.estimated,
            "bursar.upstream_request_id": usage.upstream_request_id,
            **owners,
            **_tokens(usage),
        }
        return Span(
            Context(self.context.trace_id, new_id(8), True, self.context.state),
            self.context.span_id,
            f"chat {usage.requested_model[:MAX_VALUE_CHARS]}",
            CLIENT,
            self.sent_ns,
            self.ended_ns,
            told(attributes),
            error=failed,
        )


def owners_of(known: Usage | Owners | None) -> dict[str, Value | None]:
    """Whose it is: on both spans, so that either can be grouped by it."""
    if known is None:
        return {}
    return {
        "bursar.key": known.virtual_key,
        "bursar.key_id": known.virtual_key_id,
        "bursar.team": known.team,
        "bursar.team_id": known.team_id,
        "bursar.customer": known.customer,
        "bursar.user_id": known.user_id,
        "gen_ai.conversation.id": known.session_id if isinstance(known, Usage) else None,
    }


def _tokens(usage: Usage) -> dict[str, Value | None]:
    """The conventions count cached tokens into the input; the provider does not."""
    if usage.input_tokens is None:
        return {}
    read = usage.cache_read_tokens or 0
    written = (usage.cache_write_5m_tokens or 0) + (usage.cache_write_1h_tokens or 0)
    return {
        "gen_ai.usage.input_tokens": usage.input_tokens + read + written,
        "gen_ai.usage.cache_read.input_tokens": read,
        "gen_ai.usage.cache_creation.input_tokens": written,
        "gen_ai.usage.output_tokens": usage.output_tokens or 0,
        "gen_ai.usage.reasoning.output_tokens": usage.thinking_tokens or 0,
    }
