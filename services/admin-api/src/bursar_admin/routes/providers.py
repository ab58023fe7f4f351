"""``/api/providers``."""

from __future__ import annotations

from typing import Any

from bursar_admin import providers
from bursar_admin.answers import ProviderAnswer
from bursar_admin.desk import Desk
from bursar_admin.routes import Route
from bursar_admin.routes.entities import NAME_FILTER, Entities, Kind
from bursar_admin.schemas import ProviderBody

KIND = Kind(
    entity="provider",
    singular="provider",
    plural="providers",
    path="/api/providers",
    noun="provider",
    create_body=ProviderBody,
    change_body=ProviderBody,
    create=lambda desk, projection, body, moment: providers.create_provider(projection, body, desk.rules, moment),
    change=lambda desk, projection, entity_id, body, moment: providers.change_provider(
        projection, entity_id, body, desk.rules, moment
    ),
    answer=ProviderAnswer,
    filters=(NAME_FILTER,),
    matches=lambda document, _name, value: bool(document.name == value),
)


class Providers(Entities):
    def find(self, key: str) -> Any:
        """By id, or by name, which is as unique and which keys refer to."""
        named = self.desk.projection.named("provider", "", key)
        return super().find(key if key in self.desk.projection.providers or named is None else named)


def routes(desk: Desk) -> list[Route]:
    return Providers(desk, KIND).routes()
