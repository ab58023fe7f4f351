"""Query parameters that usage routes share, read strictly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiohttp import web

from bursar_admin.errors import bad_field
from bursar_admin.queries.filters import LISTED, NAMES, Filters, read_filters
from bursar_admin.routes import Parameter
from bursar_common.windows import zone

TIMEZONE: Final = Parameter("timezone", "IANA zone of days, and of moments that name none; default UTC.")


def _schema(name: str) -> Mapping[str, Any]:
    if name.startswith(("min_", "max_")) and not name.endswith("_usd"):
        return {"type": "integer", "minimum": 0}
    if name in LISTED:
        return {"type": "array", "items": {"type": "string"}}
    return {"type": "string"}


def _descriptions() -> dict[str, str]:
    return {field.alias or name: field.description or "" for name, field in Filters.model_fields.items()}


FILTERS: Final = tuple(Parameter(name, text, _schema(name)) for name, text in _descriptions().items())
LIVE_FILTERS: Final = tuple(each for each in FILTERS if each.name not in ("from", "to"))


def asked(request: web.Request, also: Sequence[Parameter] = ()) -> tuple[Filters, dict[str, str]]:
    """The filters, and the other parameters that were given. Raises Refusal (400)."""
    names = [parameter.name for parameter in also]
    timezone = request.query.get("timezone", "") if "timezone" in names else ""
    if timezone:
        try:
            zone(timezone)
        except ValueError:
            raise bad_field("timezone", "is not a time zone", timezone, "an IANA zone such as Europe/Paris") from None
    filters = read_filters(request.query, names, timezone=timezone)
    return filters, {name: value for name, value in request.query.items() if name in names}


def choice(query: Mapping[str, str], name: str, allowed: Sequence[str], default: str) -> str:
    """One of some words. Raises Refusal (400)."""
    value = query.get(name, default)
    if value not in allowed:
        raise bad_field(name, "is not one of the allowed values", value, list(allowed))
    return value


def shown(filters: Filters) -> dict[str, Any]:
    """The filters as asked, for binding cursors."""
    return filters.model_dump(mode="json", exclude_defaults=True)


assert set(NAMES) == {parameter.name for parameter in FILTERS}
