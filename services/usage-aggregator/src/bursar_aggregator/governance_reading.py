"""The governance topic as its readers here take it: in order from its beginning, each event judged as the projector
judges it. Pure."""

from __future__ import annotations

import msgspec

from bursar_common.events import decode_envelope, decode_governance
from bursar_common.governance import Applied, project


class GovernanceReading:
    """How far the topic was read."""

    def __init__(self) -> None:
        self._versions: dict[str, int] = {}

    def take(self, value: bytes) -> Applied | None:
        """What the next record changes. None: nothing, since the projector rejects it, or nobody can read it."""
        try:
            event = decode_governance(decode_envelope(value))
        except msgspec.MsgspecError:
            return None
        applied = project(event, self._versions)
        if not isinstance(applied, Applied):
            return None
        self._versions |= applied.versions
        return applied
