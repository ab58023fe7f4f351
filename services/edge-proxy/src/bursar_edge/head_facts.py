"""What a request's head alone says, worked out once for as long as a connection sends the same head. Pure."""

from __future__ import annotations

from typing import NamedTuple

from bursar_common.wire import KeyHash
from bursar_edge.attribution import Attribution, attribute_headers
from bursar_edge.credentials import presented
from bursar_edge.incoming import Incoming
from bursar_edge.upstream import listed_in_connection, passing_headers

MAX_BETAS_EACH = 64
"""Names in one ``anthropic-beta`` header that are looked at."""
MAX_BETA_CHARS = 64


class HeadFacts(NamedTuple):
    """Of a ``messages`` or ``count_tokens`` request."""

    paid: bool
    target: str
    """Path and query below the provider's address."""
    key_hashes: tuple[KeyHash, ...]
    betas: tuple[str, ...]
    attribution: Attribution
    is_json: bool
    """The body says to be plain JSON."""
    passing: bytes
    """The header lines that go to the provider."""


def facts_of(incoming: Incoming, target: str, *, paid: bool) -> HeadFacts:
    """The facts; remembered with the head where the connection remembers it."""
    headers = incoming.headers
    betas = headers.getall("anthropic-beta", ())
    content_type = headers.get("content-type", "application/json")
    facts = HeadFacts(
        paid,
        target,
        presented(headers),
        tuple(name.strip()[:MAX_BETA_CHARS] for value in betas for name in value.split(",")[:MAX_BETAS_EACH]),
        attribute_headers(headers),
        content_type.partition(";")[0].strip().lower() == "application/json"
        and headers.get("content-encoding", "identity").lower() == "identity",
        passing_headers(incoming.raw_headers, listed_in_connection(headers), readable=paid),
    )
    if incoming.known is not None:
        incoming.known.facts = facts
    return facts
