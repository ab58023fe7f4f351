"""``bursar up`` bound beyond loopback, for people with their own login: token, key, and what is printed."""

from __future__ import annotations

import json
import stat
from pathlib import Path

from bursar.local_http import call
from tests.integration.test_up_lifecycle import Machine

KEYS = "/api/governance/virtual-keys"


def test_a_network_bind_asks_for_a_token_and_a_client_credential_is_enough(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"provider": "anthropic", "credential": "client"}))
    machine = Machine(tmp_path)
    machine.up.command += ["--bind", "0.0.0.0", "--provider-config", str(config)]
    try:
        machine.start()
        said = machine.up.output()
        token = (machine.home / "admin-token").read_text().strip()
        assert stat.S_IMODE((machine.home / "admin-token").stat().st_mode) == 0o600
        assert said.count(token) == 1
        assert "ANTHROPIC_CUSTOM_HEADERS" in said
        assert "SIMULATOR" not in said
        assert call(machine.url, "GET", KEYS).status == 401
        listed = call(machine.url, "GET", KEYS, headers={"authorization": f"Bearer {token}"}).json()
        assert listed["virtual_keys"][0]["provider_configs"][0]["credential"] == "client"
        assert machine.up.terminate(60) == 0

        # The stored log now says what the flag said; the token is not shown again.
        machine.up.command = machine.up.command[:-2]
        machine.start()
        assert token not in machine.up.output()
        assert "from an earlier start" in machine.up.output()
        assert "bursar claude --own-login" in machine.up.output()
    finally:
        machine.up.stop()
