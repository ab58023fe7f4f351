"""``/api/governance/users``."""

from __future__ import annotations

from bursar_admin import owners
from bursar_admin.answers import UserAnswer
from bursar_admin.desk import Desk
from bursar_admin.routes import Parameter, Route
from bursar_admin.routes.entities import NAME_FILTER, Entities, Kind
from bursar_admin.schemas import UserBody

KIND = Kind(
    entity="user",
    singular="user",
    plural="users",
    path="/api/governance/users",
    noun="user",
    create_body=UserBody,
    change_body=UserBody,
    create=lambda _desk, projection, body, moment: owners.create_user(projection, body, moment),
    change=lambda _desk, projection, entity_id, body, moment: owners.change_user(projection, entity_id, body, moment),
    answer=UserAnswer,
    filters=(NAME_FILTER, Parameter("team_id", "Only the users of this team.")),
    matches=lambda document, name, value: bool(getattr(document, name) == value),
)


def routes(desk: Desk) -> list[Route]:
    return Entities(desk, KIND).routes()
