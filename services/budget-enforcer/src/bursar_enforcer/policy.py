"""Governance documents as the enforcer uses them: read from Redis, kept per key until a version moves.

Versions are read before the documents they belong to, so a document can be newer than its version but never older;
the admission script compares versions and answers ``stale`` where one moved, and the key's policy is read again.
An edit of one key therefore empties nobody else's cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec
import structlog

from bursar_common.clock import Clock
from bursar_common.governance import CONFIG_ID, Config, Customer, Provider, Team, VirtualKey
from bursar_common.keys import key_hmac
from bursar_common.wire import KeyHash
from bursar_enforcer import redis_names
from bursar_enforcer.books import Books
from bursar_enforcer.chain import KeyPolicy
from bursar_enforcer.ledger import Ledger

log = structlog.get_logger()

MAX_KEYS_CACHED = 20_000
"""Keys whose policy is kept: some 5 kB each, so 100 MB at most; then the cache starts anew."""
MAX_NAMES_CACHED = 50_000
"""Presented hashes whose key is remembered; cleared when full."""
_IS_OPEN = ("HGET", redis_names.POLICY, redis_names.ADMISSION_OPEN)
UNKNOWN_BESIDE_KNOWN_S = 1.0
"""How long a credential that is no key of ours is taken for such where another one presented with it is known."""


class Restoring(Exception):
    """Redis lost what it knew and is being made good: this operation cannot be judged now, others can."""


class Policy:
    """Reads and keeps policy. All answers may be stale; the script (or :meth:`current`) tells."""

    def __init__(self, ledger: Ledger, books: Books, key_secret: str, clock: Clock) -> None:
        self._ledger = ledger
        self._books = books
        self._secret = key_secret
        self._clock = clock
        self._by_key: dict[str, KeyPolicy] = {}
        self._key_of: dict[str, tuple[str, str]] = {}
        self._unknown_until_s: dict[str, float] = {}

    # ---- from the cache

    def of_hash(self, sha256: str) -> KeyPolicy | Literal[False] | None:
        """Policy of the key a presented hash belongs to. None: not known here; False: certainly no key of ours."""
        found = self._key_of.get(sha256)
        if found is None:
            return False if self._unknown_until_s.get(sha256, 0.0) > self._clock.monotonic_s() else None
        key_id, hmac = found
        policy = self._by_key.get(key_id)
        # A rotated key keeps its id: its old value must not find it.
        return policy if policy is not None and policy.key.hmac == hmac else None

    def of_key(self, key_id: str) -> KeyPolicy | None:
        return self._by_key.get(key_id)

    def forget(self, key_id: str) -> None:
        """A version moved: the next look reads anew."""
        self._by_key.pop(key_id, None)

    def forget_all(self) -> None:
        self._by_key.clear()
        self._key_of.clear()
        self._unknown_until_s.clear()

    # ---- from Redis (each raises RedisUnavailable; find_keys and config also Restoring)

    async def find_keys(self, presented: Sequence[KeyHash]) -> list[tuple[KeyHash, KeyPolicy]]:
        """Which of the presented hashes are keys of ours, with their policy read if it was not kept."""
        hmacs = [key_hmac(self._secret, p.sha256) for p in presented]
        replies, opened = await self._ledger.commands([("HMGET", redis_names.HMACS, *hmacs), _IS_OPEN])
        if None in replies:
            self._must_be_open(opened)
        if len(self._key_of) > MAX_NAMES_CACHED:
            self._key_of.clear()
        if len(self._unknown_until_s) > MAX_NAMES_CACHED:
            self._unknown_until_s.clear()
        found: list[tuple[KeyHash, KeyPolicy]] = []
        unknown: list[str] = []
        for hash_, hmac, reply in zip(presented, hmacs, replies, strict=True):
            key_id = reply.decode() if reply is not None else ""
            policy = self._by_key.get(key_id)
            if reply is not None and (policy is None or policy.key.hmac != hmac):
                policy = await self.load(key_id)
            if policy is None or policy.key.hmac != hmac:
                unknown.append(hash_.sha256)
            else:
                self._key_of[hash_.sha256] = (key_id, hmac)
                found.append((hash_, policy))
        if found:
            until_s = self._clock.monotonic_s() + UNKNOWN_BESIDE_KNOWN_S
            self._unknown_until_s.update(dict.fromkeys(unknown, until_s))
        return found

    async def config(self) -> Config:
        """The installation's configuration, always read anew (only requests without a known key need it)."""
        reply, opened = await self._ledger.commands([("HGET", redis_names.DOCUMENTS, f"config:{CONFIG_ID}"), _IS_OPEN])
        self._must_be_open(opened)
        return _read(reply, Config) or Config()

    async def load(self, key_id: str) -> KeyPolicy | None:
        """Read a key's policy; None: there is no such key (any more)."""
        self.forget(key_id)
        versions: dict[str, str] = {}
        changes = (await self._ledger.commands([("HGET", redis_names.POLICY, redis_names.CHANGES)]))[0] or b"0"
        key = await self._document("virtual_key", key_id, VirtualKey, versions)
        if key is None:
            return None
        team = customer = None
        if key.team_id:
            team = await self._document("team", key.team_id, Team, versions)
        customer_id = key.customer_id or (team.customer_id if team is not None else "")
        if customer_id:
            customer = await self._document("customer", customer_id, Customer, versions)
        config = await self._document("config", CONFIG_ID, Config, versions)
        version, documents = await self._ledger.commands(
            [("HGET", redis_names.POLICY, redis_names.PROVIDERS_VERSION), ("HVALS", redis_names.PROVIDERS)]
        )
        versions[redis_names.PROVIDERS_VERSION] = version.decode() if version is not None else "0"
        providers = [p for p in (_read(document, Provider) for document in documents) if p is not None]
        providers.sort(key=lambda p: (p.created_at_s, p.id))
        if len(self._by_key) >= MAX_KEYS_CACHED:
            self._by_key.clear()
        books = {provider.id: book for provider in providers if (book := await self._books.of(provider)) is not None}
        policy = KeyPolicy(key, team, customer, tuple(providers), books, versions, changes, config)
        self._by_key[key_id] = policy
        return policy

    async def current(self, policies: Iterable[KeyPolicy]) -> set[str]:
        """Ids of those keys whose policy is still what Redis holds."""
        wanted = list({policy.key.id: policy for policy in policies}.values())
        replies = await self._ledger.commands([("HMGET", redis_names.POLICY, *policy.versions) for policy in wanted])
        current = set()
        for policy, reply in zip(wanted, replies, strict=True):
            if [(r or b"0").decode() for r in reply] == list(policy.versions.values()):
                current.add(policy.key.id)
        return current

    def _must_be_open(self, opened: bytes | None) -> None:
        """While Redis is being restored, what it does not know is no reason to refuse anybody."""
        if opened is None or opened.decode() != self._ledger.run_id:
            raise Restoring("the ledger is being restored")

    async def _document(self, entity: str, entity_id: str, type_: type[Any], versions: dict[str, str]) -> Any:
        version, document = await self._ledger.commands(
            [("HGET", redis_names.POLICY, entity_id), ("HGET", redis_names.DOCUMENTS, f"{entity}:{entity_id}")]
        )
        versions[entity_id] = version.decode() if version is not None else "0"
        return _read(document, type_)


def _read(document: bytes | None, type_: type[Any]) -> Any:
    """A document that cannot be read counts as absent: its owner's requests are refused, nobody else's."""
    if document is None:
        return None
    try:
        return msgspec.json.decode(document, type=type_, strict=False)
    except msgspec.MsgspecError as error:
        log.error("document_unreadable", type=type_.__name__, error=str(error)[:200])
        return None
