"""Whether a Redis may be trusted with money: a counter it drops is free spending."""

from __future__ import annotations

from typing import NamedTuple

import hiredis

from bursar_enforcer.redis_connection import RedisConnection, RedisUnavailable

OLDEST_MAJOR = 7
"""Scripts declare flags (``#!lua``), which Redis 7 brought. Valkey reports the Redis version it answers like."""


class UnsafeRedis(Exception):
    """Fatal at start: the message says what is wrong, what would happen, and what to set."""


class ServerFacts(NamedTuple):
    run_id: str
    """Random, made at each start of the server process."""
    replicas: int
    version: str


async def check_server(connection: RedisConnection) -> ServerFacts:
    """Raises UnsafeRedis, RedisUnavailable."""
    info_reply, *configuration = await connection.call(
        [("INFO",), *(("CONFIG", "GET", name) for name in ("maxmemory-policy", "appendonly", "save"))]
    )
    if isinstance(info_reply, hiredis.ReplyError):
        raise RedisUnavailable(f"Redis answered: {info_reply}")
    info = _info(info_reply)
    if info.get("loading") == "1":
        raise RedisUnavailable("Redis is loading its data")
    if info.get("role") == "slave":
        raise RedisUnavailable("this Redis is a replica; the address must lead to the primary")
    settings = _configuration(configuration)
    judge_server(
        info.get("redis_version", "0"),
        settings.get("maxmemory-policy", info.get("maxmemory_policy", "")),
        info.get("aof_enabled") == "1" or settings.get("appendonly") == "yes",
        settings.get("save"),
    )
    return ServerFacts(info["run_id"], int(info.get("connected_slaves", "0")), info.get("redis_version", ""))


def judge_server(version: str, maxmemory_policy: str, append_only: bool, save: str | None) -> None:
    """Raises UnsafeRedis. ``save`` is None where the server does not tell (managed servers hide CONFIG)."""
    if int(version.split(".")[0] or 0) < OLDEST_MAJOR:
        raise UnsafeRedis(f"Redis is version {version}; Bursar needs {OLDEST_MAJOR} or newer (or Valkey).")
    if maxmemory_policy != "noeviction":
        raise UnsafeRedis(
            f"Redis has maxmemory-policy {maxmemory_policy}: under memory pressure it would drop counters, and dropped"
            " counters are free spending. Set maxmemory-policy noeviction."
        )
    if not append_only and save is not None and not save.strip():
        raise UnsafeRedis(
            "Redis keeps nothing on disk (appendonly no, no save points): a restart would forget what was spent."
            " Set appendonly yes."
        )


def _info(reply: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in reply.decode("utf-8", "replace").splitlines())
    return {name: value.strip() for name, colon, value in lines if colon}


def _configuration(replies: list[object]) -> dict[str, str]:
    settings: dict[str, str] = {}
    for reply in replies:
        if isinstance(reply, list) and len(reply) >= 2:
            settings[reply[0].decode()] = reply[1].decode()
    return settings
