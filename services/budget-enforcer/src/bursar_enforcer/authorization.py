"""Who a caller is and what it may use, where no money is involved. Pure."""

from __future__ import annotations

from bursar_common.pricing import allowed
from bursar_common.wire import Authorize, Authorized, ModelEntry, Refused
from bursar_enforcer.chain import KeyPolicy, candidates, refuse_key, route_of


def authorized(operation: Authorize, header: str, policy: KeyPolicy, now_s: int) -> Authorized | Refused:
    refused = refuse_key(policy, now_s)
    if refused is not None:
        return refused
    if operation.model:
        way = policy.way(operation.provider, operation.model)
        if isinstance(way, Refused):
            return way
        return Authorized(header, policy.owners, way.route, _models(policy) if operation.list_models else ())
    usable = [c for c in candidates(policy) if not operation.provider or c.provider.name == operation.provider]
    if not usable:
        return Refused(
            "provider_not_allowed",
            subject=operation.provider,
            allowed=tuple(c.provider.name for c in candidates(policy)),
            owners=policy.owners,
        )
    return Authorized(header, policy.owners, route_of(usable[0]), _models(policy) if operation.list_models else ())


def _models(policy: KeyPolicy) -> tuple[ModelEntry, ...]:
    """Priced models the key may use: those its lists name, as they name them, and all others that they permit."""
    entries: dict[str, ModelEntry] = {}
    for candidate in candidates(policy):
        for name in candidate.models or ():
            model = candidate.book.find(name) if name != "*" else None
            if model is not None:
                entries.setdefault(name, ModelEntry(name, model.display_name))
        for model in candidate.book.models:
            if allowed(model.id, candidate.models, candidate.book):
                entries.setdefault(model.id, ModelEntry(model.id, model.display_name))
    return tuple(entries.values())
