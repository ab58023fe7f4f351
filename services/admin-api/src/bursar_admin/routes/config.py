"""``/api/config``: the installation-wide configuration."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from bursar_admin import providers
from bursar_admin.answers import ConfigAnswer
from bursar_admin.desk import Desk
from bursar_admin.requests import check_query, expected_version, json_answer, read
from bursar_admin.routes import Route
from bursar_admin.routes.entities import outcome_answer
from bursar_admin.schemas import ConfigBody
from bursar_common.governance import CONFIG_ID

PATH = "/api/config"


class Configuration:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def routes(self) -> list[Route]:
        summary = "Change the configuration: the fields given change, the others stay."
        return [
            Route("GET", PATH, self.get, "get_config", "Read the configuration.", ConfigAnswer),
            Route(
                "PUT", PATH, self.change, "replace_config", summary, ConfigAnswer, body=ConfigBody, may_be_pending=True
            ),
            Route(
                "PATCH", PATH, self.change, "change_config", summary, ConfigAnswer, body=ConfigBody, may_be_pending=True
            ),
        ]

    def _content(self) -> dict[str, Any]:
        config = self.desk.projection.config()
        return {
            "client_config": {
                "enforce_auth_on_inference": config.enforce_auth_on_inference,
                "default_virtual_key_id": config.default_virtual_key_id or None,
                "content": config.content,
            },
            "version": self.desk.projection.version(CONFIG_ID),
        }

    async def get(self, request: web.Request) -> web.Response:
        check_query(request)
        content = self._content()
        return json_answer(content, version=content["version"])

    async def change(self, request: web.Request) -> web.Response:
        check_query(request)
        body = await read(request, ConfigBody)
        body = body.model_copy(update={"version": expected_version(request, body.version)})
        outcome = await self.desk.run(lambda projection, moment: providers.change_config(projection, body, moment))
        content = {"message": "Configuration changed.", **self._content()}
        return outcome_answer(content, outcome, content["version"])


def routes(desk: Desk) -> list[Route]:
    return Configuration(desk).routes()
