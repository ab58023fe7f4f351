"""What a virtual key may still spend, asked with the key itself. Standard library only: a thin install has no more."""

from __future__ import annotations

import http.client
from typing import Any
from urllib.parse import urlencode

from bursar.admin_client import said_by
from bursar.local_http import call

PATH = "/api/governance/virtual-keys/quota"
ANSWER_WITHIN_S = 15.0


class QuotaUnknown(Exception):
    """Bursar did not tell; the message is one sentence."""


def ask_quota(
    url: str, key: str, *, since_s: int | None = None, run: str = "", timeout_s: float = ANSWER_WITHIN_S
) -> dict[str, Any]:
    """The answer of ``GET /api/governance/virtual-keys/quota``. ``since_s`` (Unix s) and ``run`` choose which requests
    ``usage`` sums. Raises QuotaUnknown."""
    asked = {name: value for name, value in (("since", since_s), ("run", run)) if value}
    path = PATH + (f"?{urlencode(asked)}" if asked else "")
    try:
        answer = call(url, "GET", path, headers={"authorization": f"Bearer {key}"}, timeout_s=timeout_s)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise QuotaUnknown(f"Bursar does not answer at {url} ({error}).") from None
    found = answer.json()
    if answer.status in (401, 403):
        said = found.get("error") if isinstance(found, dict) else None
        message = said.get("message") if isinstance(said, dict) else None
        raise QuotaUnknown(str(message or f"Bursar at {url} refuses this key ({answer.status})."))
    if answer.status != 200 or not isinstance(found, dict) or not isinstance(found.get("budgets"), list):
        raise QuotaUnknown(said_by(answer) if answer.status != 200 else f"What answers at {url} is not Bursar.")
    return found
