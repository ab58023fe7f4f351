"""``/api/finance/allocations``: what is charged beside requests."""

from __future__ import annotations

from aiohttp import web
from typing_extensions import TypedDict

from bursar_admin.allocations import (
    AllocationAnswer,
    AllocationBody,
    allocation_answer,
    change_allocation,
    create_allocation,
    delete_allocation,
)
from bursar_admin.answers import DeletedAnswer
from bursar_admin.desk import Command, Desk
from bursar_admin.owners import find
from bursar_admin.requests import PAGING, check_query, expected_version, json_answer, page, read
from bursar_admin.routes import Parameter, Route
from bursar_admin.routes.entities import in_order, order_of, outcome_answer
from bursar_admin.schemas import Body
from bursar_common.finance import ALLOCATION

PATH = "/api/finance/allocations"
FILTERS = (
    Parameter("kind", "Only of this kind.", {"type": "string", "enum": ["split", "fee", "commitment"]}),
    Parameter("virtual_key_id", "Only splits of this key."),
    Parameter("name", "Only of exactly this name."),
)
ORDER = order_of(ALLOCATION)


class AllocationPage(TypedDict):
    allocations: list[AllocationAnswer]
    count: int
    total_count: int
    limit: int
    offset: int


class AllocationOne(TypedDict):
    allocation: AllocationAnswer


class AllocationDone(AllocationOne):
    message: str
    event_id: str


class Allocations:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def routes(self) -> list[Route]:
        one = f"{PATH}/{{id}}"
        summary = "Change an allocation: the fields given change, the others stay."
        return [
            Route("GET", PATH, self.list, "list_allocations", "List allocations, oldest first unless told otherwise.",
                  AllocationPage, query=(*PAGING, *ORDER, *FILTERS)),
            Route("POST", PATH, self.create, "create_allocation",
                  "Divide a shared key's cost among those who use it, or charge seats or a commitment each month.",
                  AllocationDone, body=AllocationBody, creating=True, may_be_pending=True),
            Route("GET", one, self.get, "get_allocation", "Read one allocation.", AllocationOne),
            Route("PUT", one, self.change, "replace_allocation", summary, AllocationDone, body=AllocationBody,
                  may_be_pending=True),
            Route("PATCH", one, self.change, "change_allocation", summary, AllocationDone, body=AllocationBody,
                  may_be_pending=True),
            Route("DELETE", one, self.delete, "delete_allocation", "Delete an allocation that no closed month has.",
                  DeletedAnswer, may_be_pending=True),
        ]  # fmt: skip

    def _answer(self, allocation_id: str) -> AllocationAnswer:
        document = find(self.desk.projection, ALLOCATION, allocation_id)
        return allocation_answer(document, self.desk.projection.version(allocation_id))

    async def list(self, request: web.Request) -> web.Response:
        query = check_query(request, (*PAGING, *ORDER, *FILTERS))
        limit, offset = page(query)
        own = {each.name for each in (*PAGING, *ORDER)}
        filters = {name: value for name, value in query.items() if name not in own}
        projection = self.desk.projection
        ids = [
            allocation_id
            for allocation_id in in_order(projection, ALLOCATION, query)
            if all(getattr(projection.allocations[allocation_id], name) == value for name, value in filters.items())
        ]
        answers = [self._answer(allocation_id) for allocation_id in ids[offset : offset + limit]]
        return json_answer(
            {"allocations": answers, "count": len(answers), "total_count": len(ids), "limit": limit, "offset": offset}
        )

    async def get(self, request: web.Request) -> web.Response:
        check_query(request)
        answer = self._answer(request.match_info["id"])
        return json_answer({"allocation": answer}, version=answer["version"])

    async def create(self, request: web.Request) -> web.Response:
        check_query(request)
        body = await read(request, AllocationBody, creating=True)
        return await self._carry_out(lambda projection, moment: create_allocation(projection, body, moment), "created")

    async def change(self, request: web.Request) -> web.Response:
        check_query(request)
        body = await read(request, AllocationBody)
        body = body.model_copy(update={"version": expected_version(request, body.version)})
        allocation_id = find(self.desk.projection, ALLOCATION, request.match_info["id"]).id
        return await self._carry_out(
            lambda projection, moment: change_allocation(projection, allocation_id, body, moment), "changed"
        )

    async def delete(self, request: web.Request) -> web.Response:
        check_query(request)
        await read(request, Body, optional=True)
        version = expected_version(request)
        allocation_id = find(self.desk.projection, ALLOCATION, request.match_info["id"]).id
        outcome = await self.desk.run(
            lambda projection, moment: delete_allocation(projection, allocation_id, version, moment)
        )
        return outcome_answer({"message": "Allocation deleted.", "id": allocation_id}, outcome, None)

    async def _carry_out(self, command: Command, done: str) -> web.Response:
        outcome = await self.desk.run(command)
        answer = self._answer(outcome.entity_id)
        return outcome_answer({"message": f"Allocation {done}.", "allocation": answer}, outcome, answer["version"])


def routes(desk: Desk) -> list[Route]:
    return Allocations(desk).routes()
