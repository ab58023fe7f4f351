"""``/api/governance/teams``."""

from __future__ import annotations

from bursar_admin import owners
from bursar_admin.answers import TeamAnswer
from bursar_admin.desk import Desk
from bursar_admin.routes import Parameter, Route
from bursar_admin.routes.entities import NAME_FILTER, Entities, Kind
from bursar_admin.schemas import TeamBody

KIND = Kind(
    entity="team",
    singular="team",
    plural="teams",
    path="/api/governance/teams",
    noun="team",
    create_body=TeamBody,
    change_body=TeamBody,
    create=lambda _desk, projection, body, moment: owners.create_team(projection, body, moment),
    change=lambda _desk, projection, entity_id, body, moment: owners.change_team(projection, entity_id, body, moment),
    answer=TeamAnswer,
    filters=(NAME_FILTER, Parameter("customer_id", "Only the teams of this customer.")),
    matches=lambda document, name, value: bool(getattr(document, name) == value),
)


def routes(desk: Desk) -> list[Route]:
    return Entities(desk, KIND).routes()
