"""Deletes everything in Redis that is derived from the log: the first step of a rebuild.

Nobody waits for it, so it goes through redis-py, over a connection of its own. That package takes 40 MB and a second to
import: only who deletes imports this module.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from bursar_enforcer import redis_names
from bursar_enforcer.redis_connection import CONNECT_TIMEOUT_S, REPLY_TIMEOUT_S, RedisAddress, RedisUnavailable

DELETE_BATCH = 500
"""Keys deleted in one round trip: well below a millisecond for Redis."""


def open_client(address: RedisAddress, ca_file: Path | None) -> Redis:
    """redis-py's client for the ledger's Redis; connects at its first command."""
    return Redis(
        host=address.host,
        port=address.port,
        unix_socket_path=address.path or None,
        username=address.username or None,
        password=address.password or None,
        db=address.database,
        ssl=address.tls,
        ssl_ca_certs=str(ca_file) if ca_file is not None else None,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        socket_timeout=REPLY_TIMEOUT_S,
        protocol=2,
    )


async def delete_projection(address: RedisAddress, ca_file: Path | None) -> int:
    """Returns how many counters and holds there were. Raises RedisUnavailable; run again, it goes on."""
    client = open_client(address, ca_file)
    try:
        return await _delete(client)
    except (RedisError, OSError) as error:
        raise RedisUnavailable(f"the ledger could not be deleted: {type(error).__name__}") from error
    finally:
        await client.aclose()


async def _delete(client: Redis) -> int:
    deleted = 0
    for pattern in (redis_names.COUNTER + "*", redis_names.HOLD + "*"):
        found: list[bytes] = []
        async for key in client.scan_iter(match=_literal(pattern), count=DELETE_BATCH):
            found.append(key)
            if len(found) == DELETE_BATCH:
                deleted += await client.unlink(*found)
                found.clear()
        if found:
            deleted += await client.unlink(*found)
    fields: list[Any] = await client.hkeys(redis_names.POLICY)
    versions = [field for field in fields if not field.startswith(b"!")]
    async with client.pipeline(transaction=False) as pipe:
        pipe.unlink(
            redis_names.OPEN_HOLDS,
            redis_names.ENDS,
            redis_names.DOCUMENTS,
            redis_names.HMACS,
            redis_names.PROVIDERS,
        )
        for at in range(0, len(versions), DELETE_BATCH):
            pipe.hdel(redis_names.POLICY, *versions[at : at + DELETE_BATCH])
        # Raised, not deleted: what an enforcer keeps of the old policy must not look current.
        pipe.hincrby(redis_names.POLICY, redis_names.PROVIDERS_VERSION, 1)
        await pipe.execute()
    return deleted


def _literal(pattern: str) -> str:
    return pattern.replace("{", "\\{").replace("}", "\\}")
