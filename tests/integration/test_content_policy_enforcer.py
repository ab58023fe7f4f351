"""Admissions say whether content is stored, and the next request sees a change of any of the three who decide it."""

from __future__ import annotations

from pathlib import Path

from bursar_common.governance import Config, Team
from bursar_common.wire import Admitted
from tests.integration.enforcer_world import NOW_S, Inside


async def test_the_next_request_sees_who_switched_content_on_or_off(tmp_path: Path) -> None:
    async with Inside(tmp_path) as inside:
        await inside.govern_default()
        number = 0

        async def stored() -> bool:
            nonlocal number
            number += 1
            await inside.governed()
            admitted = await inside.admit(f"r{number}")
            assert isinstance(admitted, Admitted), admitted
            again = await inside.admit(f"r{number}")
            assert isinstance(again, Admitted)
            assert again.content is admitted.content
            return admitted.content

        async def team(content: str) -> None:
            document = Team(id="team1", name="platform", created_at_s=NOW_S, content=content)  # type: ignore[arg-type]
            await inside.govern("team", document)

        assert not await stored()
        await inside.govern("config", Config(content="on"), id="config")
        assert await stored()
        await inside.govern("virtual_key", inside.key(content="off"))
        assert not await stored()
        await inside.govern("config", Config(), id="config")
        await inside.govern("virtual_key", inside.key(content="on"))
        assert await stored()
        await team("off")
        await inside.govern("virtual_key", inside.key(content="on", team_id="team1"))
        assert not await stored()
        await team("on")
        assert await stored()
        await inside.govern("virtual_key", inside.key(team_id="team1"))
        assert await stored()
        await team("")
        assert not await stored()
