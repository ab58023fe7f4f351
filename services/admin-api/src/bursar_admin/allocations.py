"""Commands on allocations: a shared key's cost divided, seat fees, commitments. Pure.

A closed month never changes: an allocation begins in an open one, and of one that reaches into a closed month only the
end, the name and the description may change.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from pydantic import Field, PlainValidator, WithJsonSchema
from typing_extensions import TypedDict

from bursar_admin.closing import ALLOCATIONS_VERSION, CLOSES_VERSION, MONTH_ALLOWED, charges, last_closed, raising
from bursar_admin.errors import bad_field, conflict
from bursar_admin.fields import Count, Description, Name, Nusd, Percent, Reference, Version, fault
from bursar_admin.limits import Moment
from bursar_admin.owners import check_name, check_version, find, reference
from bursar_admin.projection import Projection
from bursar_admin.quota import usd
from bursar_admin.schemas import REQUIRED, Body
from bursar_admin.writes import Decision, write
from bursar_common.clock import rfc3339
from bursar_common.finance import ALLOCATION, WHOLE, Allocation, AllocationPart, divide, is_month, next_month
from bursar_common.money import MAX_DOLLARS

MAX_PARTS = 200
"""Parts of one allocation: teams that share a key."""
MAX_SEATS = 1_000_000
MAX_MONTHLY_NUSD = MAX_DOLLARS * 1_000_000_000
PERCENT_ALLOWED = "0.0001 to 100 with at most four decimals"


def _month(value: Any) -> str:
    if not isinstance(value, str) or not is_month(value):
        raise fault("is not a month", MONTH_ALLOWED)
    return value


Month = Annotated[
    str, PlainValidator(_month), WithJsonSchema({"type": "string", "pattern": r"^20\d\d-(0[1-9]|1[0-2])$"})
]


class PartBody(Body):
    """Who bears a part: a team, or a customer."""

    team_id: Reference | None = None
    customer_id: Reference | None = None
    cost_center: Name | None = None
    percent: Percent | None = Field(None, description="Of a split or a commitment; at most four decimals.")
    seats: Count | None = Field(None, description="Of a fee.")


class AllocationBody(Body):
    name: Name | None = None
    kind: Literal["split", "fee", "commitment"] | None = None
    description: Description | None = None
    virtual_key_id: Reference | None = Field(None, description="The shared key of a split.")
    provider: Name | None = Field(None, description="Whose bill a fee or commitment is on; default anthropic.")
    amount: Nusd | None = Field(None, description="Dollars a month: of a fee for each seat, of a commitment in all.")
    from_month: Month | None = None
    to_month: Month | None = Field(None, description="The last month; null: goes on.")
    parts: Annotated[list[PartBody], Field(min_length=1, max_length=MAX_PARTS)] | None = None
    version: Version | None = None


REQUIRED[AllocationBody] = ("name", "kind", "from_month", "parts")


class PartAnswer(TypedDict):
    team_id: str | None
    team: str
    customer_id: str | None
    customer: str
    cost_center: str | None
    percent: str | None
    seats: int | None
    amount_nusd: int | None
    amount_usd: str | None


class AllocationAnswer(TypedDict):
    id: str
    name: str
    kind: str
    description: str
    virtual_key_id: str | None
    provider: str | None
    amount_nusd: int | None
    amount_usd: str | None
    from_month: str
    to_month: str | None
    parts: list[PartAnswer]
    created_at: str
    version: int


def allocation_answer(document: Allocation, version: int) -> AllocationAnswer:
    fixed = document.kind != "split"
    return {
        "id": document.id,
        "name": document.name,
        "kind": document.kind,
        "description": document.description,
        "virtual_key_id": document.virtual_key_id or None,
        "provider": document.provider if fixed else None,
        "amount_nusd": document.amount_nusd if fixed else None,
        "amount_usd": usd(document.amount_nusd) if fixed else None,
        "from_month": document.from_month,
        "to_month": document.to_month or None,
        "parts": [
            {
                "team_id": part.team_id or None,
                "team": part.team,
                "customer_id": part.customer_id or None,
                "customer": part.customer,
                "cost_center": part.cost_center or None,
                "percent": _percent_text(part.weight) if document.kind != "fee" else None,
                "seats": part.weight if document.kind == "fee" else None,
                "amount_nusd": part.amount_nusd if fixed else None,
                "amount_usd": usd(part.amount_nusd) if fixed else None,
            }
            for part in document.parts
        ],
        "created_at": rfc3339(document.created_at_s * 1000),
        "version": version,
    }


def _percent_text(weight: int) -> str:
    return f"{weight // 10_000}.{weight % 10_000:04d}".rstrip("0").rstrip(".")


def create_allocation(projection: Projection, body: AllocationBody, moment: Moment) -> Decision:
    name, kind, from_month = body.name, body.kind, body.from_month
    assert name is not None
    assert kind is not None
    assert from_month is not None
    check_name(projection, ALLOCATION, "", name)
    _check_open(projection, from_month)
    empty = Allocation(
        id=moment.mint(), name=name, kind=kind, created_at_s=moment.now_s, from_month=from_month, parts=()
    )
    after = _filled(projection, empty, body)
    return _write(projection, None, after, moment)


def change_allocation(projection: Projection, allocation_id: str, body: AllocationBody, moment: Moment) -> Decision:
    before: Allocation = find(projection, ALLOCATION, allocation_id)
    check_version(projection, ALLOCATION, allocation_id, body.version)
    if body.kind is not None and body.kind != before.kind:
        raise bad_field("kind", "cannot change: delete the allocation, or end it, and create another", body.kind)
    after = _filled(projection, before, body)
    check_name(projection, ALLOCATION, "", after.name, allocation_id)
    last = last_closed(projection)
    if charges(after, last):
        _check_alive(projection, after)
    if last and before.from_month <= last:
        fixed = msgspec.structs.replace(
            after, name=before.name, description=before.description, to_month=before.to_month
        )
        if fixed != before:
            raise conflict(
                f"The allocation is part of months that are closed (the last is {last}), so only its name, description "
                f"and end may change. End it with {last} or later, and create another from {next_month(last)} on."
            )
        if after.to_month != before.to_month:
            for field in (before.to_month, after.to_month):
                if field and field < last:
                    raise conflict(f"{last} is closed, and what was charged in it stays as it is.", field="to_month")
    else:
        _check_open(projection, after.from_month)
    return _write(projection, before, after, moment)


def _check_alive(projection: Projection, allocation: Allocation) -> None:
    """Raises Refusal (409): an allocation that ended may name owners that were deleted since, one that goes on not."""
    for part in allocation.parts:
        if part.team_id and part.team_id not in projection.teams:
            raise conflict(f"The team {part.team!r} was deleted: an allocation that goes on cannot name it.")
        if not part.team_id and part.customer_id not in projection.customers:
            raise conflict(f"The customer {part.customer!r} was deleted: an allocation that goes on cannot name it.")
    if allocation.virtual_key_id and allocation.virtual_key_id not in projection.virtual_keys:
        raise conflict("The key was deleted: a split that goes on cannot divide it.")


def delete_allocation(projection: Projection, allocation_id: str, version: int | None, moment: Moment) -> Decision:
    before: Allocation = find(projection, ALLOCATION, allocation_id)
    check_version(projection, ALLOCATION, allocation_id, version)
    last = last_closed(projection)
    if last and before.from_month <= last:
        raise conflict(
            f"The allocation is part of months that are closed (the last is {last}) and cannot be deleted: set its "
            f"to_month to {last} or later instead."
        )
    return _write(projection, before, None, moment)


def _write(projection: Projection, before: Allocation | None, after: Allocation | None, moment: Moment) -> Decision:
    decision = write(projection, ALLOCATION, before, after, moment.actor, also_seen=(CLOSES_VERSION,))
    return raising(decision, projection, ALLOCATIONS_VERSION)


def _check_open(projection: Projection, month: str) -> None:
    last = last_closed(projection)
    if last and month <= last:
        allowed = f"{next_month(last)} or later"
        raise bad_field("from_month", "is closed: an allocation begins in an open month", month, allowed)


def _filled(projection: Projection, document: Allocation, body: AllocationBody) -> Allocation:
    """The document with what the body gives, checked as a whole. Raises Refusal (400, 409)."""
    kind = document.kind
    after = msgspec.structs.replace(
        document,
        name=body.name if body.name is not None else document.name,
        description=(body.description or "") if body.given("description") else document.description,
        from_month=body.from_month if body.from_month is not None else document.from_month,
        to_month=(body.to_month or "") if body.given("to_month") else document.to_month,
        virtual_key_id=reference(projection, "virtual_key", "virtual_key_id", body.virtual_key_id)
        if body.given("virtual_key_id")
        else document.virtual_key_id,
        provider=body.provider or document.provider,
        amount_nusd=(body.amount or 0) if body.given("amount") else document.amount_nusd,
    )
    if after.to_month and after.to_month < after.from_month:
        raise bad_field("to_month", "is before from_month", after.to_month, f"{after.from_month} or later, or null")
    if kind == "split":
        if not after.virtual_key_id:
            raise bad_field("virtual_key_id", "is needed for a split", None, "the id of the shared key")
        if after.amount_nusd:
            raise bad_field("amount", "is not for a split, which divides what the key costs", None, "leave it out")
        _check_other_splits(projection, after)
    else:
        if after.virtual_key_id:
            raise bad_field("virtual_key_id", f"is not for a {kind}", after.virtual_key_id, "leave it out")
        if not after.amount_nusd:
            raise bad_field("amount", f"is needed for a {kind}", None, "dollars a month, above 0")
    parts = after.parts if body.parts is None else _parts(projection, kind, body.parts)
    return msgspec.structs.replace(after, parts=_amounts(after, parts))


def _check_other_splits(projection: Projection, after: Allocation) -> None:
    for other in projection.allocations.values():
        if other.id == after.id or other.kind != "split" or other.virtual_key_id != after.virtual_key_id:
            continue
        if other.from_month <= (after.to_month or "9999") and after.from_month <= (other.to_month or "9999"):
            raise conflict(
                f"The allocation {other.name!r} divides that key in some of these months.",
                field="virtual_key_id",
                existing_id=other.id,
            )


def _parts(projection: Projection, kind: str, bodies: list[PartBody]) -> tuple[AllocationPart, ...]:
    parts = []
    for at, body in enumerate(bodies):
        where = f"parts[{at}]"
        if (body.team_id is None) == (body.customer_id is None):
            raise bad_field(where, "names a team or a customer, one of them", None, "team_id or customer_id")
        team_id = reference(projection, "team", f"{where}.team_id", body.team_id)
        customer_id = reference(projection, "customer", f"{where}.customer_id", body.customer_id)
        team = projection.teams.get(team_id)
        customer = projection.customers.get(team.customer_id if team is not None else customer_id)
        parts.append(
            AllocationPart(
                team_id=team_id,
                team=team.name if team is not None else "",
                customer_id=customer.id if customer is not None else "",
                customer=customer.name if customer is not None else "",
                cost_center=body.cost_center or "",
                weight=_seats(body, where) if kind == "fee" else _weight(body, where, kind),
            )
        )
    whole = sum(part.weight for part in parts)
    if kind == "split" and whole > WHOLE:
        raise bad_field("parts", f"sum to {_percent_text(whole)} %", None, "100 % at most; the rest stays where it is")
    if kind == "commitment" and whole != WHOLE:
        raise bad_field("parts", f"sum to {_percent_text(whole)} %", None, "exactly 100 %")
    return tuple(parts)


def _weight(body: PartBody, where: str, kind: str) -> int:
    if body.seats is not None:
        raise bad_field(f"{where}.seats", f"is not for a {kind}", body.seats, "percent")
    whole, _, digits = (body.percent or "").partition(".")
    digits = digits.rstrip("0")
    if not whole or len(digits) > 4 or not int(whole + digits or "0"):
        raise bad_field(f"{where}.percent", "must be a percentage", body.percent, PERCENT_ALLOWED)
    return int(whole) * 10_000 + int(digits.ljust(4, "0"))


def _seats(body: PartBody, where: str) -> int:
    if body.percent is not None:
        raise bad_field(f"{where}.percent", "is not for a fee", body.percent, "seats")
    if body.seats is None or not 1 <= body.seats <= MAX_SEATS:
        raise bad_field(f"{where}.seats", "must be a whole number", body.seats, f"1 to {MAX_SEATS}")
    return body.seats


def _amounts(document: Allocation, parts: tuple[AllocationPart, ...]) -> tuple[AllocationPart, ...]:
    """Each part with what it is charged a month; of a split that depends on the month."""
    if document.kind == "split":
        return parts
    weights = [part.weight for part in parts]
    if document.kind == "fee":
        amounts = [document.amount_nusd * weight for weight in weights]
        if sum(amounts) > MAX_MONTHLY_NUSD:
            raise bad_field("amount", "times all seats is too large", None, f"${MAX_DOLLARS} a month at most")
    else:
        amounts = divide(document.amount_nusd, weights)
    return tuple(msgspec.structs.replace(part, amount_nusd=amount) for part, amount in zip(parts, amounts, strict=True))
