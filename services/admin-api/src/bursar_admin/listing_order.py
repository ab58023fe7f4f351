"""In what order lists of entities may be asked for. Pure; works on the projection alone, whatever is spent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from bursar_admin.projection import Projection, provider_key
from bursar_common.finance import ALLOCATION

CREATED: Final = "created_at"
"""The order that every list has of itself."""
Key = Callable[[Projection, Any], Any]
_NEVER: Final = 1 << 62


def _name(projection: Projection, document: Any) -> str:
    return str(document.name).casefold()


def _named(entity: str) -> Key:
    """By the name of the owner that a document belongs to; those without one come first."""

    def key(projection: Projection, document: Any) -> str:
        owner = projection.document(entity, getattr(document, f"{entity}_id"))
        return str(owner.name).casefold() if owner is not None else ""

    return key


def _below(entity: str) -> Key:
    def key(projection: Projection, document: Any) -> int:
        parent = provider_key(document.name) if hasattr(document, "price_overrides") else document.id
        return len(projection.children(parent, entity))

    return key


def _budget(projection: Projection, document: Any) -> int:
    """The limit of the first budget, as lists show it; none is less than $0."""
    return int(document.budgets[0].limit_nusd) if document.budgets else -1


def _state(projection: Projection, document: Any) -> tuple[bool, int]:
    """Keys that last longest first, inactive ones last."""
    return not document.is_active, -(document.expires_at_s or _NEVER)


def _models(projection: Projection, document: Any) -> int:
    """How many models a key names; all of them are more than any number."""
    if document.provider_configs is None:
        return _NEVER
    named: list[Any] = [config.allowed_models for config in document.provider_configs]
    return _NEVER if None in named else sum(len(each) for each in named)


def _monthly(projection: Projection, document: Any) -> int:
    """What an allocation charges each month; of a split that depends on its key: before all others."""
    return -1 if document.kind == "split" else sum(int(part.amount_nusd) for part in document.parts)


SORTS: Final[Mapping[str, Mapping[str, Key]]] = {
    "customer": {
        "name": _name, "budget": _budget, "teams": _below("team"), "keys": _below("virtual_key"),
        "timezone": lambda _, document: document.timezone or "UTC",
    },
    "team": {
        "name": _name, "customer": _named("customer"), "budget": _budget, "keys": _below("virtual_key"),
        "users": _below("user"),
    },
    "user": {
        "name": _name, "email": lambda _, document: document.email.casefold(), "team": _named("team"),
        "keys": _below("virtual_key"),
    },
    "virtual_key": {
        "name": _name, "state": _state, "team": _named("team"), "user": _named("user"), "budget": _budget,
        "models": _models,
    },
    "provider": {
        "name": _name, "base_url": lambda _, document: document.base_url,
        "credential": lambda _, document: document.credential,
        "discount": lambda _, document: float(document.discount_percent),
        "price_overrides": lambda _, document: len(document.price_overrides), "keys": _below("virtual_key"),
    },
    ALLOCATION: {
        "name": _name, "kind": lambda _, document: document.kind, "amount": _monthly,
        "from_month": lambda _, document: document.from_month,
        "to_month": lambda _, document: document.to_month or "9999",
    },
}  # fmt: skip
"""Kind of entity to what its lists may be sorted by, beside :data:`CREATED`."""


def ordered(projection: Projection, entity: str, sort_by: str, descending: bool) -> list[str]:
    """All ids of a kind in that order; alike ones by name, then by age."""
    ids = list(projection.ordered(entity))
    if sort_by != CREATED:
        documents, key = projection.entities(entity), SORTS[entity][sort_by]
        ids.sort(key=lambda each: (key(projection, documents[each]), _name(projection, documents[each])))
    return ids[::-1] if descending else ids
