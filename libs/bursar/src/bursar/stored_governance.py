"""What a home's own log says about provider credentials, read before anything starts.

Run by the supervisor as a process of its own (``python -m bursar.stored_governance <log file>``), so that what it
imports is gone from memory when it ends. Standard input: ``{"credential_sha256", "key_secret"}``; standard output: the
facts.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bursar.credential_rules import Stored
from bursar.home import Home, StartRefused

READ_WITHIN_S = 120.0
"""A governance log is small: 100,000 events take about three seconds."""


def read_stored(home: Home, credential: str, key_secret: str) -> Stored:
    """The facts of this home; none where no log exists yet. Raises StartRefused where the log cannot be read."""
    if not home.log_database.exists():
        return Stored()
    import hashlib

    asked = {"credential_sha256": hashlib.sha256(credential.encode()).hexdigest(), "key_secret": key_secret}
    try:
        ran = subprocess.run(
            [sys.executable, "-P", "-m", "bursar.stored_governance", str(home.log_database)],
            input=json.dumps(asked).encode(),
            capture_output=True,
            timeout=READ_WITHIN_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise StartRefused(
            f"The event log {home.log_database} could not be read within {READ_WITHIN_S:.0f} s."
        ) from None
    if ran.returncode:
        why = (ran.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
        raise StartRefused(f"The event log {home.log_database} cannot be read: {why}")
    facts = json.loads(ran.stdout)
    facts["provider_credentials"] = tuple(facts["provider_credentials"])
    return Stored(**facts)


async def facts_of(path: Path, credential_hmac: str) -> dict[str, Any]:
    """Project the governance topic and look at keys and the ``anthropic`` provider."""
    from bursar_common.eventlog.sqlite import SqliteEventLog
    from bursar_common.events import GOVERNANCE_TOPIC, decode_envelope, decode_governance
    from bursar_common.governance import Applied, project

    versions: dict[str, int] = {}
    documents: dict[tuple[str, str], dict[str, Any]] = {}
    log = SqliteEventLog(path)
    await log.start()
    try:
        offset = await log.begin_offset(GOVERNANCE_TOPIC, 0)
        while records := await log.read(GOVERNANCE_TOPIC, 0, offset):
            for record in records:
                applied = project(decode_governance(decode_envelope(record.value)), versions)
                if isinstance(applied, Applied):
                    versions |= applied.versions
                    documents.pop((applied.entity, applied.entity_id), None)
                    if applied.document is not None:
                        documents[applied.entity, applied.entity_id] = applied.document
            offset = records[-1].offset + 1
    finally:
        await log.close()
    keys = [document for (entity, _), document in documents.items() if entity == "virtual_key"]
    providers = [document for (entity, _), document in documents.items() if entity == "provider"]
    provider = next((p for p in providers if p.get("name") == "anthropic"), {})
    references = [part.strip() for part in str(provider.get("credential", "")).split(",") if part.strip()]
    return {
        "client_credential": "client" in references
        or any(
            config.get("credential") == "client"
            for key in keys
            if key.get("is_active", True)
            for config in key.get("provider_configs") or ()
        ),
        "provider_credentials": references,
        "provider_base_url": provider.get("base_url", ""),
        "credential_is_a_key": any(key.get("hmac") == credential_hmac for key in keys),
    }


def main() -> int:
    from bursar_common.keys import key_hmac

    asked = json.load(sys.stdin)
    hmac = key_hmac(asked["key_secret"], asked["credential_sha256"])
    try:
        print(json.dumps(asyncio.run(facts_of(Path(sys.argv[1]), hmac))))
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
