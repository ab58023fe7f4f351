"""The enforcer's span of an admission, below the edge's: how long its batch took here, and what came of it.

Written after the batch is answered, only for admissions that carry a trace: the edge says which are recorded.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from bursar_common.spans import SERVER, Context, Span, read_context, told
from bursar_common.tracing import Tracing, new_id
from bursar_common.wire import Admit, Admitted, Refused, Reply
from bursar_enforcer.operations import Operation


def now_ns() -> int:
    """Unix nanoseconds."""
    return time.time_ns()


def trace_batch(
    tracing: Tracing, operations: Sequence[Operation], replies: Sequence[Reply | msgspec.Raw], started_ns: int
) -> None:
    """Write the spans of a batch that was answered just now."""
    ended_ns = now_ns()
    for operation, reply in zip(operations, replies, strict=True):
        if type(operation) is Admit and operation.trace is not msgspec.UNSET:
            state = operation.trace_state
            parent = read_context(operation.trace, None if state is msgspec.UNSET else state)
            if parent is not None and parent.sampled:
                tracing.export.add(_admission(operation, reply, parent, len(operations), started_ns, ended_ns))


def _admission(
    admit: Admit, reply: Reply | msgspec.Raw, parent: Context, operations: int, started_ns: int, ended_ns: int
) -> Span:
    answer = answer_of(reply)
    return Span(
        Context(parent.trace_id, new_id(8), True, parent.state),
        parent.span_id,
        "admit",
        SERVER,
        started_ns,
        ended_ns,
        told(
            {
                "bursar.request_id": admit.request_id,
                "bursar.admission": answer,
                "bursar.batch_operations": operations,
                "gen_ai.request.model": admit.model,
                "bursar.refused_by": reply.reason if isinstance(reply, Refused) else None,
            }
        ),
        error=answer in ("unavailable", "invalid"),
        parent_is_remote=True,
    )


def answer_of(reply: Reply | msgspec.Raw) -> str:
    """The reply's tag; an encoded one is an admission's."""
    if isinstance(reply, msgspec.Raw):
        return "admitted"
    if isinstance(reply, Admitted):
        return "admitted"
    return str(reply.__struct_config__.tag)
