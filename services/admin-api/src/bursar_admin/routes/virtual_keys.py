"""``/api/governance/virtual-keys``: as every kind, and a key's value, which is shown once and kept nowhere."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from bursar_admin import keys
from bursar_admin.answers import VirtualKeyAnswer
from bursar_admin.desk import Desk
from bursar_admin.errors import bad_field
from bursar_admin.projection import Projection
from bursar_admin.requests import check_query, expected_version, read
from bursar_admin.routes import Parameter, Route
from bursar_admin.routes.entities import NAME_FILTER, Entities, Kind, _answers
from bursar_admin.schemas import NewVirtualKeyBody, RotateBody, VirtualKeyBody
from bursar_common.keys import key_hmac, new_key_value, sha256_hex


def _matches(document: Any, name: str, value: str) -> bool:
    if name == "is_active":
        return bool(document.is_active == (value == "true"))
    return bool(getattr(document, name) == value)


def _not_created_here(_desk: Desk, _projection: Projection, _body: Any, _moment: Any) -> Any:
    raise NotImplementedError("VirtualKeys.create handles creation: it mints the value")


KIND = Kind(
    entity="virtual_key",
    singular="virtual_key",
    plural="virtual_keys",
    path="/api/governance/virtual-keys",
    noun="virtual key",
    create_body=NewVirtualKeyBody,
    change_body=VirtualKeyBody,
    create=_not_created_here,
    change=lambda _desk, projection, entity_id, body, moment: keys.change_key(projection, entity_id, body, moment),
    answer=VirtualKeyAnswer,
    filters=(
        NAME_FILTER,
        Parameter("team_id", "Only the keys of this team."),
        Parameter("customer_id", "Only the keys of this customer, those of its teams included."),
        Parameter("user_id", "Only the keys of this user."),
        Parameter("is_active", "Only active, or only inactive keys.", {"type": "boolean"}),
    ),
    matches=_matches,
)


class VirtualKeys(Entities):
    def routes(self) -> list[Route]:
        changed = _answers(self.kind)[2]
        rotate = Route(
            "POST", f"{self.kind.path}/{{id}}/rotate", self.rotate, "rotate_virtual_key",
            "Give a virtual key another value; the one before stops working at once.", changed,
            body=RotateBody, body_required=False, may_be_pending=True,
        )  # fmt: skip
        return [*super().routes(), rotate]

    def matches(self, document: Any, name: str, value: str) -> bool:
        if name == "customer_id":
            team = self.desk.projection.teams.get(document.team_id)
            return bool((team.customer_id if team is not None else document.customer_id) == value)
        return self.kind.matches(document, name, value)

    async def create(self, request: web.Request) -> web.Response:
        check_query(request)
        body = await read(request, NewVirtualKeyBody, creating=True)
        hmac, value = self._hash(body)
        return await self.carry_out(
            lambda projection, moment: keys.create_key(projection, body, hmac, moment), "created", value
        )

    async def rotate(self, request: web.Request) -> web.Response:
        check_query(request)
        body = await read(request, RotateBody, optional=True)
        version = expected_version(request, body.version)
        hmac, value = self._hash(body)
        key_id = request.match_info["id"]
        return await self.carry_out(
            lambda projection, moment: keys.rotate_key(projection, key_id, hmac, version, moment), "rotated", value
        )

    def _hash(self, body: NewVirtualKeyBody | RotateBody) -> tuple[str, str]:
        """(keyed hash to store, value to show). A key brought along is known to its owner and not shown."""
        if body.value is not None and body.value_sha256 is not None:
            raise bad_field("value_sha256", "stands beside value", None, "either value or value_sha256")
        if body.value_sha256 is not None:
            return key_hmac(self.desk.key_secret, body.value_sha256), ""
        value = body.value or new_key_value()
        return key_hmac(self.desk.key_secret, sha256_hex(value)), "" if body.value else value


def routes(desk: Desk) -> list[Route]:
    return VirtualKeys(desk, KIND).routes()
