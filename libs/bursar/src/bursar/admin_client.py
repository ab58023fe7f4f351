"""Virtual keys through the admin API: create, list, rotate."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Any
from urllib.parse import quote

from bursar.local_http import Answer, call

KEYS_PATH = "/api/governance/virtual-keys"
TEAMS_PATH = "/api/governance/teams"
CUSTOMERS_PATH = "/api/governance/customers"
PAGE = 100
MAX_PAGES = 1000
"""Of one listing; 100,000 keys."""
ANSWER_WITHIN_S = 15.0


class AdminRefused(Exception):
    """The admin API said no, or nothing; the message is one sentence."""


def read_budget(text: str) -> dict[str, Any]:
    """``100/1M`` (dollars per window) as the admin API's budget. Raises AdminRefused."""
    amount, slash, window = text.partition("/")
    try:
        dollars = Decimal(amount.lstrip("$"))
    except InvalidOperation:
        dollars = Decimal("NaN")
    if not slash or not dollars.is_finite() or dollars < 0 or not re.fullmatch(r"[1-9]\d*[smhdwMQY]", window):
        raise AdminRefused(
            f"The budget {text!r} is not <dollars>/<window>, for example 100/1M (a month), 5/1d or 2.50/90m."
        )
    return {"max_limit": float(dollars), "reset_duration": window}


class AdminClient:
    """``url`` is Bursar's own; ``token`` empty where none is asked for."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._headers = {"authorization": f"Bearer {token}"} if token else {}

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        try:
            answer = call(self._url, method, path, body=body, headers=self._headers, timeout_s=ANSWER_WITHIN_S)
        except OSError as error:
            raise AdminRefused(f"Bursar does not answer at {self._url} ({error}): is `bursar up` running?") from None
        if answer.status >= 300:
            raise AdminRefused(said_by(answer))
        return answer.json()

    def create_key(self, name: str, *, team: str | None, budgets: list[dict[str, Any]]) -> dict[str, Any]:
        """The new key with its ``value``, which is shown this once."""
        body: dict[str, Any] = {"name": name}
        if team:
            body["team_id"] = self._team_id(team)
        if budgets:
            body["budgets"] = budgets
        key: dict[str, Any] = self._call("POST", KEYS_PATH, body)["virtual_key"]
        return key

    def rotate_key(self, key_id: str) -> dict[str, Any]:
        """The key with its new ``value``; the old one is no longer accepted."""
        key: dict[str, Any] = self._call("POST", f"{KEYS_PATH}/{quote(key_id, safe='')}/rotate", {})["virtual_key"]
        return key

    def list_keys(self) -> list[dict[str, Any]]:
        """Every key, with its team's or customer's name as ``owner`` (empty: it belongs to neither)."""
        keys = self._all(KEYS_PATH, "virtual_keys")
        names: dict[str, str] = {}
        for field, path, plural in (("team_id", TEAMS_PATH, "teams"), ("customer_id", CUSTOMERS_PATH, "customers")):
            if any(key.get(field) for key in keys):
                names |= {entry["id"]: entry["name"] for entry in self._all(path, plural)}
        for key in keys:
            owner = key.get("team_id") or key.get("customer_id") or ""
            key["owner"] = names.get(owner, owner)
        return keys

    def _team_id(self, team: str) -> str:
        """A team by id or name."""
        teams = self._all(TEAMS_PATH, "teams")
        found = [entry["id"] for entry in teams if team in (entry["id"], entry["name"])]
        if len(found) != 1:
            known = ", ".join(sorted({entry["name"] for entry in teams})[:20]) or "none"
            what = "no team" if not found else "more than one team (give the id)"
            raise AdminRefused(f"There is {what} named {team!r}; teams: {known}.")
        return str(found[0])

    def _all(self, path: str, field: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = []
        for _ in range(MAX_PAGES):
            page = self._call("GET", f"{path}?limit={PAGE}&offset={len(entries)}")
            entries += page[field]
            if not page[field] or len(entries) >= page["total_count"]:
                break
        return entries


def said_by(answer: Answer) -> str:
    """The admin API's own sentence, with what it says is allowed there."""
    value = answer.json()
    error = value.get("error") if isinstance(value, dict) else None
    message = error.get("message") if isinstance(error, dict) else error if isinstance(error, str) else None
    if answer.status == 401:
        return f"{message or 'An admin token is needed.'} Set BURSAR_ADMIN_TOKEN or give --token."
    allowed = error.get("allowed") if isinstance(error, dict) else None
    if message and allowed:
        listed = ", ".join(str(entry) for entry in allowed) if isinstance(allowed, list) else allowed
        return f"{message} (allowed: {listed})"
    return str(message or f"The admin API answered {answer.status}: {answer.body[:300].decode(errors='replace')}")
