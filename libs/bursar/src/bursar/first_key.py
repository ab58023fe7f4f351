"""The first virtual key: made once, kept in ``<home>/first-key``, used again at every later start."""

from __future__ import annotations

from typing import Any

from bursar.admin_client import said_by
from bursar.home import Home, StartRefused, write_private
from bursar.local_http import call

KEYS_PATH = "/api/governance/virtual-keys"
NAMES = ("first-key", *(f"first-key-{number}" for number in range(2, 11)))
"""Tried in turn: a name stays taken where a person deleted the file but not the key."""
ANSWER_WITHIN_S = 15.0
"""A command waits up to 5 s for the enforcer and is then answered 202."""


def stored_first_key(home: Home) -> str:
    """The kept value, or nothing."""
    try:
        return home.first_key.read_text().strip()
    except OSError:
        return ""


def make_first_key(
    home: Home, admin_address: str, admin_token: str, provider_configs: list[dict[str, Any]] | None = None
) -> str:
    """Create the key through the admin API and keep its value. Raises StartRefused with admin-api's own words.

    A crash between creating and keeping leaves a key that nobody knows; the next start makes another under the next
    name."""
    headers = {"host": "localhost"} | ({"authorization": f"Bearer {admin_token}"} if admin_token else {})
    wanted: dict[str, Any] = {"description": "Made at the first start"}
    if provider_configs is not None:
        wanted["provider_configs"] = provider_configs
    said = "no answer"
    for name in NAMES:
        try:
            answer = call(
                admin_address,
                "POST",
                KEYS_PATH,
                body={"name": name, **wanted},
                headers=headers,
                timeout_s=ANSWER_WITHIN_S,
            )
        except OSError as error:
            raise StartRefused(f"The first key could not be made: the admin API does not answer ({error}).") from None
        value = ((answer.json() or {}).get("virtual_key") or {}).get("value")
        if answer.status < 300 and value:
            write_private(home.first_key, f"{value}\n")
            return str(value)
        said = said_by(answer)
        if answer.status != 409:
            break
    raise StartRefused(f"The first key could not be made: {said}")


def key_is_known(edge_url: str, value: str) -> bool | None:
    """Whether the edge accepts the key; None where it cannot be told now."""
    try:
        answer = call(edge_url, "GET", "/v1/models?limit=1", headers={"x-bf-vk": value})
    except OSError:
        return None
    if answer.status in (401, 403):
        return False
    return True if answer.status == 200 else None
