"""docker-compose.yml as the tests use it: the environment of a service, variables resolved, addresses replaced."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import yaml

from tests.harness.require import CHECKOUT

COMPOSE_FILE = CHECKOUT / "docker-compose.yml"
_VARIABLE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>\w+)(?:(?P<sign>:?[-?])(?P<text>[^}]*))?\})")


class VariableMissing(Exception):
    """A variable that the file requires (``${NAME:?message}``) is not set; says what docker compose would say."""


@cache
def compose_document() -> dict[str, Any]:
    """The file with its anchors resolved. Not to be changed."""
    document: dict[str, Any] = yaml.safe_load(COMPOSE_FILE.read_text())
    return document


def resolve(text: str, variables: Mapping[str, str]) -> str:
    """``${NAME}``, ``${NAME:-default}``, ``${NAME:?message}`` (and without ``:``) replaced, as docker compose does."""

    def value(match: re.Match[str]) -> str:
        if match["dollar"]:
            return "$"
        name, sign, alternative = match["name"], match["sign"] or "", match["text"] or ""
        given = variables.get(name)
        if given is not None and (given or not sign.startswith(":")):
            return given
        if sign.endswith("?"):
            raise VariableMissing(f"required variable {name} is missing a value: {alternative}")
        return alternative if sign.endswith("-") else given or ""

    return _VARIABLE.sub(value, text)


def compose_environment(service: str, replacements: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, str]:
    """The environment docker compose would give ``service``, with ``${…}`` from ``variables`` and then each key of
    ``replacements`` (``kafka:9092``, ``0.0.0.0:8081``, a folder) replaced by its value wherever it occurs.

    Raises VariableMissing, and AssertionError where an address of another container is left."""
    document = compose_document()
    environment = {
        name: resolve(str(text), variables) for name, text in document["services"][service]["environment"].items()
    }
    for old, new in replacements.items():
        environment = {name: text.replace(old, new) for name, text in environment.items()}
    hosts = "|".join(map(re.escape, [*document["services"], "0.0.0.0"]))
    for name, text in environment.items():
        left = re.search(rf"(?<![\w.-])(?:{hosts}):\d+", text)
        assert left is None, f"{service}: {name} still names {left and left.group()}"
    return environment
