"""``/api/governance/customers``."""

from __future__ import annotations

from bursar_admin import owners
from bursar_admin.answers import CustomerAnswer
from bursar_admin.desk import Desk
from bursar_admin.routes import Route
from bursar_admin.routes.entities import NAME_FILTER, Entities, Kind
from bursar_admin.schemas import CustomerBody

KIND = Kind(
    entity="customer",
    singular="customer",
    plural="customers",
    path="/api/governance/customers",
    noun="customer",
    create_body=CustomerBody,
    change_body=CustomerBody,
    create=lambda _desk, projection, body, moment: owners.create_customer(projection, body, moment),
    change=lambda _desk, projection, entity_id, body, moment: owners.change_customer(
        projection, entity_id, body, moment
    ),
    answer=CustomerAnswer,
    filters=(NAME_FILTER,),
    matches=lambda document, _name, value: bool(document.name == value),
)


def routes(desk: Desk) -> list[Route]:
    return Entities(desk, KIND).routes()
