"""What a request in flight holds, from its head at admission and from its stream at each renewal. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bursar_common.events import Usage
from bursar_common.pricing import CompiledModel, PriceBook
from bursar_common.wire import Admit, Features, HoldEntry
from bursar_enforcer import bound
from bursar_enforcer.bound import Figures
from bursar_enforcer.chain import Way
from bursar_enforcer.expectation import Expectation, Learner
from bursar_enforcer.learning import counts_of


class Running(msgspec.Struct, gc=False, frozen=True):
    """What the first figures were made of. Kept in memory only: after a restart renewals never lower a hold."""

    book: PriceBook
    model: CompiledModel
    requested_model: str
    features: Features
    max_tokens: int
    expectation: Expectation
    started_at_ms: int


class Facts(msgspec.Struct, frozen=True, omit_defaults=True):
    """The part of the usage event that an admission knows and its way does not; field names are the event's."""

    request_id: str
    started_at_ms: int
    requested_model: str
    model: str
    stream: bool = False
    max_tokens: int | None = None
    session_id: str = ""
    agent_id: str = ""
    tags: dict[str, str] = {}
    speed: str = ""
    inference_geo: str = ""
    text_bytes: int = 0
    held_nusd: int = 0
    bound_nusd: int = 0


class WayFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """The part every request of a way shares."""

    outcome: str
    virtual_key_id: str
    virtual_key: str
    team_id: str = ""
    team: str = ""
    customer_id: str = ""
    customer: str = ""
    user_id: str = ""
    provider: str = ""
    provider_credential: str = ""
    billing: str = "metered"
    price_book_id: str = ""


_encode = msgspec.json.Encoder().encode


def way_facts(way: Way, simulated: bool) -> bytes:
    """JSON object without its closing brace."""
    owners = way.owners
    facts = WayFacts(
        outcome="expired",
        virtual_key_id=owners.virtual_key_id,
        virtual_key=owners.virtual_key,
        team_id=owners.team_id,
        team=owners.team,
        customer_id=owners.customer_id,
        customer=owners.customer,
        user_id=owners.user_id,
        provider="simulator" if simulated and way.provider.name == "anthropic" else way.provider.name,
        provider_credential="client" if way.client_pays else "",
        billing="customer" if way.client_pays else "metered",
        price_book_id=way.book.id,
    )
    return _encode(facts)[:-1] + b","


def first_figures(admit: Admit, way: Way, learner: Learner, now_s: float) -> tuple[Running, tuple[int, ...], int]:
    """What a request holds at admission: what it was made of, the amounts in the order of the script's last arguments
    (expected, bound and strict nano-dollars, tokens without and with cache reads, one request), and its bound."""
    features = admit.features
    owners = way.owners
    expectation = learner.expect(
        key=owners.virtual_key_id,
        model=admit.model,
        session=admit.session,
        agent=admit.agent,
        text_bytes=features.text_bytes,
        max_tokens=admit.max_tokens,
        now_s=now_s,
        ttl_1h=features.cache_ttl_1h,
        images=features.images,
        documents=features.documents,
    )
    running = Running(way.book, way.model, admit.model, features, admit.max_tokens, expectation, admit.started_at_ms)
    figures = bound.figures(
        way.book,
        way.model,
        features,
        admit.max_tokens,
        expectation,
        strict=False,
        started_at_ms=admit.started_at_ms,
    )
    strict_nusd = figures.bound_nusd
    if way.strict is not None:
        strict_nusd = max(
            figures.expected_nusd,
            bound.bound_nusd(
                way.book, way.model, features, admit.max_tokens, strict=True, started_at_ms=admit.started_at_ms
            ),
        )
    amounts = (figures.expected_nusd, figures.bound_nusd, strict_nusd, figures.expected_t, figures.expected_T, 1)
    return running, amounts, strict_nusd


def admit_facts(head: bytes, admit: Admit, held_nusd: int, bound_nusd: int) -> bytes:
    """The event as far as it is known at admission, JSON."""
    features = admit.features
    return (
        head
        + _encode(
            Facts(
                request_id=admit.request_id,
                started_at_ms=admit.started_at_ms,
                requested_model=admit.model,
                model=admit.model,
                stream=admit.stream,
                max_tokens=admit.max_tokens,
                session_id=admit.session,
                agent_id=admit.agent,
                tags=admit.tags,
                speed=features.speed,
                inference_geo=features.geo,
                text_bytes=features.text_bytes,
                held_nusd=held_nusd,
                bound_nusd=bound_nusd,
            )
        )[1:]
    )


def followed_hold(
    hold: Sequence[HoldEntry], running: Running | None, event: Usage, book: PriceBook | None, *, prompt_known: bool
) -> tuple[HoldEntry, ...]:
    """The hold after a renewal. Without ``running`` (another enforcer admitted it, or this one restarted) the features
    are not known, so nothing is lowered; without a price nothing changes at all."""
    model_name = event.model or event.requested_model
    if running is not None:
        book = running.book
    model = book.find(model_name) if book is not None else None
    if running is not None and model is None:
        model = running.model
    if book is None or model is None:
        return tuple(hold)
    seen = counts_of(event)

    def figures(strict: bool) -> Figures:
        started_at_ms = event.started_at_ms
        if running is None:
            tokens = event.max_tokens or 0
            return bound.follow(
                book, model, Features(), tokens, Expectation(0, 0, 0, 0, False), seen,
                prompt_known=prompt_known, strict=strict, started_at_ms=started_at_ms,
                speed=event.speed, inference_geo=event.inference_geo,
            )  # fmt: skip
        return bound.follow(
            book, model, running.features, running.max_tokens, running.expectation, seen,
            prompt_known=prompt_known, strict=strict, started_at_ms=started_at_ms,
            speed=event.speed, inference_geo=event.inference_geo,
        )  # fmt: skip

    standard = figures(False)
    strict = figures(True) if any(entry.strict for entry in hold) else standard
    entries = []
    for entry in hold:
        unit = entry.counter[0]
        if unit == "n":
            chosen = strict if entry.strict else standard
            expected, most = chosen.expected_nusd, chosen.bound_nusd
        elif unit == "t":
            expected = most = standard.expected_t
        elif unit == "T":
            expected = most = standard.expected_T
        else:
            expected, most = entry.expected, entry.bound
        if running is None:
            expected, most = max(expected, entry.expected), max(most, entry.bound)
        entries.append(HoldEntry(entry.counter, expected, most, entry.strict))
    return tuple(entries)
