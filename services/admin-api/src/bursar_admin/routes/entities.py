"""List, get, create, change and delete, alike for every kind of entity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from typing_extensions import TypedDict

from bursar_admin import owners
from bursar_admin.answers import BalancesState, DeletedAnswer
from bursar_admin.desk import Command, Desk
from bursar_admin.errors import bad_field
from bursar_admin.journal import Outcome
from bursar_admin.limits import Moment
from bursar_admin.listing_order import CREATED, SORTS, ordered
from bursar_admin.projection import Projection
from bursar_admin.requests import PAGING, check_query, expected_version, flag, json_answer, page, read
from bursar_admin.routes import Parameter, Route
from bursar_admin.routes.usage_query import choice
from bursar_admin.schemas import Body
from bursar_admin.writes import Decision

PENDING = "Recorded. It takes effect as soon as the ledger can be reached."

Create = Callable[[Desk, Projection, Any, Moment], Decision]
Change = Callable[[Desk, Projection, str, Any, Moment], Decision]


@dataclass(frozen=True)
class Kind:
    """What distinguishes one kind of entity from another."""

    entity: str
    singular: str
    """Member of answers (``virtual_key``)."""
    plural: str
    path: str
    noun: str
    create_body: type[Body]
    change_body: type[Body]
    create: Create
    change: Change
    answer: Any
    filters: tuple[Parameter, ...]
    matches: Callable[[Any, str, str], bool]
    """(document, filter, value)"""


NAME_FILTER = Parameter("name", "Only the entities of exactly this name.")
MAX_TEXT_CHARS = 200
TEXT = Parameter("text", "Only those whose name contains this, or whose id it is; upper and lower case are alike.")


def order_of(entity: str) -> tuple[Parameter, Parameter]:
    """Parameters by which a list of these is sorted."""
    names = [CREATED, *SORTS[entity]]
    return (
        Parameter("sort_by", "What to sort by.", {"type": "string", "enum": names, "default": CREATED}),
        Parameter("order", "Direction.", {"type": "string", "enum": ["asc", "desc"], "default": "asc"}),
    )


class Entities:
    """Handlers of one kind."""

    def __init__(self, desk: Desk, kind: Kind) -> None:
        self.desk = desk
        self.kind = kind
        self.own = (*PAGING, TEXT, *order_of(kind.entity))
        """Parameters of its list that are not filters of its kind."""

    def routes(self) -> list[Route]:
        kind = self.kind
        one = f"{kind.path}/{{id}}"
        listed, single, changed = _answers(kind)
        name = kind.singular
        routes = [
            Route(
                "GET", kind.path, self.list, f"list_{kind.plural}",
                f"List {kind.noun}s, oldest first unless told otherwise.", listed,
                query=(*self.own, *kind.filters),
            ),
            Route(
                "POST", kind.path, self.create, f"create_{name}", f"Create a {kind.noun}.", changed,
                body=kind.create_body, creating=True, may_be_pending=True,
            ),
            Route("GET", one, self.get, f"get_{name}", f"Read one {kind.noun}.", single),
            Route(
                "DELETE", one, self.delete, f"delete_{name}", f"Delete a {kind.noun} nothing depends on.",
                DeletedAnswer, may_be_pending=True,
            ),
        ]  # fmt: skip
        for method, verb in (("PUT", "replace"), ("PATCH", "change")):
            routes.append(
                Route(
                    method,
                    one,
                    self.change,
                    f"{verb}_{name}",
                    f"Change a {kind.noun}: the fields given change, the others stay.",
                    changed,
                    body=kind.change_body,
                    may_be_pending=True,
                )
            )
        return routes

    async def list(self, request: web.Request) -> web.Response:
        query = check_query(request, (*self.own, *self.kind.filters))
        limit, offset = page(query)
        own = {each.name for each in self.own}
        filters = {name: value for name, value in query.items() if name not in own}
        flag(filters, "is_active")
        projection, entity = self.desk.projection, self.kind.entity
        documents, ids = projection.entities(entity), _ordered(projection, entity, query)
        if filters:
            ids = [
                entity_id
                for entity_id in ids
                if all(self.matches(documents[entity_id], name, value) for name, value in filters.items())
            ]
        chosen = [documents[entity_id] for entity_id in ids[offset : offset + limit]]
        answers, balances = await self.desk.represent(entity, chosen)
        return json_answer(
            {
                self.kind.plural: answers,
                "count": len(answers),
                "total_count": len(ids),
                "limit": limit,
                "offset": offset,
                "balances": balances,
            }
        )

    def find(self, key: str) -> Any:
        """The document of that id. Raises Refusal (404)."""
        return owners.find(self.desk.projection, self.kind.entity, key)

    def matches(self, document: Any, name: str, value: str) -> bool:
        """Whether a document passes one filter."""
        return self.kind.matches(document, name, value)

    async def get(self, request: web.Request) -> web.Response:
        check_query(request)
        document = self.find(request.match_info["id"])
        (answer,), balances = await self.desk.represent(self.kind.entity, [document])
        return json_answer({self.kind.singular: answer, "balances": balances}, version=answer["version"])

    async def create(self, request: web.Request) -> web.Response:
        check_query(request)
        body = await read(request, self.kind.create_body, creating=True)
        return await self.carry_out(
            lambda projection, moment: self.kind.create(self.desk, projection, body, moment), "created"
        )

    async def change(self, request: web.Request) -> web.Response:
        check_query(request)
        body: Any = await read(request, self.kind.change_body)
        version = expected_version(request, body.version)
        body = body.model_copy(update={"version": version})
        entity_id = self.find(request.match_info["id"]).id
        return await self.carry_out(
            lambda projection, moment: self.kind.change(self.desk, projection, entity_id, body, moment), "changed"
        )

    async def delete(self, request: web.Request) -> web.Response:
        check_query(request)
        await read(request, Body, optional=True)
        version = expected_version(request)
        entity_id = self.find(request.match_info["id"]).id
        outcome = await self.desk.run(
            lambda projection, moment: owners.delete(projection, self.kind.entity, entity_id, version, moment)
        )
        content = {"message": f"{_capital(self.kind.noun)} deleted.", "id": entity_id}
        return outcome_answer(content, outcome, None)

    async def carry_out(self, command: Command, done: str, secret: str = "") -> web.Response:
        """Run a command and answer with the entity as it is then; ``secret`` is a key's value, shown this once."""
        outcome = await self.desk.run(command)
        document = self.desk.projection.entities(self.kind.entity).get(outcome.entity_id)
        if document is None:  # deleted by somebody else right after
            document = owners.find(self.desk.projection, self.kind.entity, outcome.entity_id)
        (answer,), balances = await self.desk.represent(self.kind.entity, [document])
        if secret:
            answer["value"] = secret
        content = {"message": f"{_capital(self.kind.noun)} {done}.", self.kind.singular: answer, "balances": balances}
        return outcome_answer(content, outcome, answer["version"])


def _ordered(projection: Projection, entity: str, query: dict[str, str]) -> list[str]:
    """Ids in the order asked for, of those that the text is found in. Raises Refusal (400)."""
    ids = in_order(projection, entity, query)
    text = query.get("text")
    if text is not None:
        if not 1 <= len(text) <= MAX_TEXT_CHARS:
            raise bad_field("text", "must be some words or an id", text[:40], f"1 to {MAX_TEXT_CHARS} characters")
        wanted, documents = text.casefold(), projection.entities(entity)
        ids = [each for each in ids if each == text or wanted in documents[each].name.casefold()]
    return ids


def in_order(projection: Projection, entity: str, query: dict[str, str]) -> list[str]:
    """All ids in the order asked for. Raises Refusal (400)."""
    sort_by = choice(query, "sort_by", (CREATED, *SORTS[entity]), CREATED)
    return ordered(projection, entity, sort_by, choice(query, "order", ("asc", "desc"), "asc") == "desc")


def outcome_answer(content: dict[str, Any], outcome: Outcome, version: int | None) -> web.Response:
    """The answer to a command: ``content`` with the event's id; 202, and so said, where it is not in force yet."""
    if outcome.event_id:
        content["event_id"] = outcome.event_id
    if not outcome.in_force:
        content["message"] = PENDING
    return json_answer(content, status=200 if outcome.in_force else 202, version=version)


def _capital(noun: str) -> str:
    return noun[0].upper() + noun[1:]


def _answers(kind: Kind) -> tuple[Any, Any, Any]:
    """Types of the answers of list, get and change."""
    title = "".join(part.title() for part in kind.singular.split("_"))
    page_fields: dict[str, Any] = {
        kind.plural: list[kind.answer],  # type: ignore[name-defined]
        "count": int,
        "total_count": int,
        "limit": int,
        "offset": int,
        "balances": BalancesState,
    }
    single: dict[str, Any] = {kind.singular: kind.answer, "balances": BalancesState}
    return (
        TypedDict(f"{title}Page", page_fields),  # type: ignore[operator]
        TypedDict(f"{title}One", single),  # type: ignore[operator]
        TypedDict(f"{title}Done", {"message": str, "event_id": str, **single}),  # type: ignore[operator]
    )
