"""The commands of the README's chapter on budgets work as they stand there, one pasted after the other."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.harness.admin import running_admin

README = Path(__file__).parents[2] / "README.md"


def commands() -> str:
    _, _, chapter = README.read_text(encoding="utf-8").partition("\n## Budgets\n")
    chapter = chapter.partition("\n## ")[0]
    blocks = [block for block in chapter.split("\n\n") if block.startswith(("    TEAM=", "    curl "))]
    assert len(blocks) == 3
    return "\necho '---'\n".join(blocks)


@pytest.mark.skipif(shutil.which("curl") is None or shutil.which("bash") is None, reason="no curl or bash here")
async def test_what_is_copied_from_the_readme_works(tmp_path: Path) -> None:
    async with running_admin(tmp_path) as admin:
        script = (
            f"set -e\ncurl() {{ command curl --unix-socket '{tmp_path}/admin.http' \"$@\"; }}\n"
            f"python3() {{ '{sys.executable}' \"$@\"; }}\n{commands()}"
        )
        process = await asyncio.create_subprocess_exec(
            "bash", "-c", script, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(120):
            out, err = await process.communicate()
        assert process.returncode == 0, err
        _, key, team = out.decode().split("---\n")
        made = json.loads(key)["virtual_key"]
        assert made["value"].startswith("sk-bf-")
        shown = json.loads(team)["team"]
        assert (shown["name"], shown["id"]) == ("platform-engineering", made["team_id"])
        assert shown["budgets"][0]["current_usage"] == shown["budgets"][0]["held"] == 0
        assert list(admin.desk.projection.virtual_keys) == [made["id"]]
