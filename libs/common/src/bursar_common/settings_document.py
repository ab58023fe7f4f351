"""``docs/settings.md``, made from :class:`bursar_common.settings.Settings` so that the two cannot differ. Pure."""

from __future__ import annotations

from pydantic.fields import FieldInfo

from bursar_common.settings import PREFIX, Settings


def document() -> str:
    """The whole page. Raises ValueError naming a setting whose meaning is not written down."""
    lines = [
        "# Settings",
        "",
        "Every setting is an environment variable, with the same name in every service. An empty variable is not set.",
        "A `BURSAR_` name that is not in this table, or a value that is not allowed, is refused at start with one",
        "sentence, which never repeats the value, and exit code 2. (Left alone are names listed in",
        "`BURSAR_CREDENTIAL_ENV`, and those that Kubernetes sets for its services.) `bursar up` chooses addresses and",
        "makes secrets by itself, and refuses a setting that it would have to ignore.",
        "",
        "| name | default | allowed | meaning |",
        "|---|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        if not field.description:
            raise ValueError(f"the setting {name} has no docstring")
        meaning = " ".join(field.description.split()).replace("``", "`").replace("|", "\\|")
        lines.append(f"| `{PREFIX}{name.upper()}` | {_default(field)} | {_allowed(field)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _default(field: FieldInfo) -> str:
    text = "" if field.default is None else str(field.default)
    if isinstance(field.default, bool):
        text = text.lower()
    return f"`{text}`" if text else ""


def _allowed(field: FieldInfo) -> str:
    """Bounds and choices, from the field's own constraints."""
    if field.annotation is bool:
        return "`true`, `false`"
    bounds = {
        name: getattr(rule, name) for rule in field.metadata for name in ("ge", "le", "pattern") if _has(rule, name)
    }
    if pattern := bounds.get("pattern"):
        return ", ".join(f"`{choice}`" for choice in str(pattern).strip("^$()").split("|"))
    if "ge" in bounds and "le" in bounds:
        return f"{bounds['ge']} to {bounds['le']}"
    if "ge" in bounds:
        return f"at least {bounds['ge']}"
    return ""


def _has(rule: object, name: str) -> bool:
    return getattr(rule, name, None) is not None
