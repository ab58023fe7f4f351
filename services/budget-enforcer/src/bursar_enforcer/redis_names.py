"""Names of everything the enforcer keeps in Redis. One hash tag: all in one slot, whatever the cluster's size.

Behind the tag stands the number of the format (the scripts' prelude describes it): of a ledger of another format
nothing is seen, so that Redis looks empty and is derived anew from the log.
"""

from __future__ import annotations

SLOT = "{bursar}:"
TAG = SLOT + "2:"
POLICY = TAG + "policy"
"""Hash: version id -> version, and the ledger's own fields, which begin with ``!``."""
OPEN_HOLDS = TAG + "open"
"""Sorted set: request ids of open holds by the time of their last renewal (Redis' clock, ms)."""
ENDS = TAG + "ends"
"""Sorted set: keys of counters by the time from which they may be deleted (s)."""
POSITIONS = TAG + "positions"
"""Hash: ``governance`` and ``usage:<partition>`` -> offset of the first record not yet applied."""
OUTBOXES = TAG + "outboxes"
"""Hash: ``<outbox id>:<partition>`` -> highest sequence applied."""
DOCUMENTS = TAG + "documents"
"""Hash: ``<entity>:<id>`` -> the entity's document, JSON."""
HMACS = TAG + "hmacs"
"""Hash: a key's HMAC -> key id, and ``of:<key id>`` -> its HMAC."""
PROVIDERS = TAG + "providers"
"""Hash: provider id -> document, JSON."""
REBUILD = TAG + "rebuild"
"""Exists while a rebuild lives; expires when the process that refreshes it is gone."""
HOLD = TAG + "h:"
COUNTER = TAG + "c:"
BOOK = TAG + "book:"

ADMISSION_OPEN = "!open"
CLEAN_STOP = "!clean"
CHANGES = "!changes"
"""Raised with every governance event that applied: equal means that nothing at all was changed since."""
PROVIDERS_VERSION = "!providers"
"""Raised with every change of any provider: which providers exist decides the route of keys without an own list."""
GOVERNANCE = "governance"


def usage_field(partition: int) -> str:
    return f"usage:{partition}"
