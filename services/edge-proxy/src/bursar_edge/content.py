"""Prompts and answers, where they are to be stored: references kept while an answer passes, everything else after it.

While an answer is relayed, its chunks are put on a list and nothing is looked at. When the request has been recorded,
one task of this process takes one request after the other: reads the parts, takes the secrets out, cuts to size, and
appends the event to the outbox. It works in steps of a few hundred microseconds between which the event loop serves
everybody else; a large text is searched on a thread, which gives up the interpreter lock.

Content is worth less than anything else here: where memory or the outbox has no room for it, it is left out and
counted, and a crash loses what was not appended yet. It stands in no log line, error or usage event.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from bursar_common.clock import rfc3339
from bursar_common.eventlog.port import MAX_RECORD_BYTES
from bursar_common.events import CONTENT_RECORDED, Content, ContentPart, encode_event
from bursar_common.settings import Settings, SettingsError
from bursar_edge.content_parts import MAX_DEPTH, RawPart, StreamParts, answer_parts, as_text, fitting, prompt_parts
from bursar_edge.credentials import bearer
from bursar_edge.decoding import Feeds, decoded
from bursar_edge.keeping import Keeping
from bursar_edge.link import Header, Reply
from bursar_edge.outbox import Outbox
from bursar_edge.relay import is_stream
from bursar_edge.usage_event import Facts

if TYPE_CHECKING:
    from bursar_edge.redaction import Redactor

log = structlog.get_logger()

MAX_KEPT_BYTES = 128 << 20
"""Bodies and answers of all requests from their beginning until they are stored: far beyond what is on its way at once
(a hundred busy sessions hold some 100 MB), and bounded."""
MAX_PROMPT_BYTES = 8 << 20
"""A larger body (mostly images) is not read for its content; taking it apart would hold everybody up for 20 ms."""
TURN_CHARS = 32 << 10
"""Characters worked through before others get their turn: some 0.2 ms."""
ON_THREAD_CHARS = 64 << 10
"""Longer texts are searched on a thread."""
MAX_DECODED_ANSWER_BYTES = 16 << 20
"""Bytes that a compressed answer is decoded to; what is beyond is left out."""
MAX_APPENDING = 32
"""Records on their way into the outbox at once: at its pace of a commit in 10 ms some 3,000 a second, and at most
MAX_APPENDING records of memory beside MAX_KEPT_BYTES (a record has some 10 kB to 1 MB)."""
RECORD_ROOM = 64 << 10
"""Of a record's greatest size left for everything but texts."""
MAX_PARTS = 2_000
"""Parts stored of one prompt, and of one answer."""


class Kept:
    """What is kept of one request until its content is stored."""

    __slots__ = (
        "_store",
        "answer",
        "body",
        "encoding",
        "facts",
        "good",
        "known",
        "prompt_bytes",
        "prompt_cut",
        "stream",
        "taken",
    )

    def __init__(self, store: ContentStore, facts: Facts, known: tuple[str, ...]) -> None:
        self._store = store
        self.facts = facts
        self.known = known
        """Credentials of this request, to be taken out whatever they look like."""
        self.body = bytes(facts.head.body)
        self.prompt_bytes = self.taken = len(self.body)
        self.prompt_cut = False
        if self.taken > MAX_PROMPT_BYTES or not store.take(self.taken):
            self.body, self.taken, self.prompt_cut = b"", 0, True
        self.answer: Keeping | None = None
        self.encoding = ""
        self.stream = self.good = False

    def over(self, feeds: Feeds, reply: Reply) -> Keeping:
        """Stand before the answer's reader."""
        self.encoding = reply.headers.get("content-encoding", "").strip().lower()
        self.stream = is_stream(reply.headers.get("content-type", ""))
        self.good = 200 <= reply.status < 300
        self.answer = Keeping(feeds, self._store)
        return self.answer

    def drop(self) -> None:
        """Forget everything and give the memory back. Idempotent."""
        self.body = b""
        taken, self.taken = self.taken, 0
        self._store.give_back(taken)
        if self.answer is not None:
            self.answer.drop()


class ContentSettings(NamedTuple):
    max_bytes: int = 512 << 10
    """Bytes of text stored of one prompt, and of one answer."""
    patterns: str = ""
    """An operator's expressions, checked already."""
    memory_bytes: int = MAX_KEPT_BYTES
    """See MAX_KEPT_BYTES."""


class ContentStore:
    """Memory of what is kept, the queue of what is to be stored, and the one task that works on it."""

    def __init__(
        self,
        settings: ContentSettings,
        outbox: Outbox,
        now_ms: Callable[[], int],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._settings = settings
        self._outbox = outbox
        self._redactor: Redactor | None = None
        self._now_ms = now_ms
        self._spawn = spawn
        self._free = settings.memory_bytes
        self._queue: deque[Kept] = deque()
        self._working = False
        self._appending = asyncio.Semaphore(MAX_APPENDING)
        self.counts: Counter[str] = Counter()
        """``stored``; ``lost``: the outbox had no room; ``failed``; ``left_out``: bytes for which memory had none."""

    # ---- while the request runs

    def take(self, size: int) -> bool:
        if size > self._free:
            self.counts["left_out"] += size
            return False
        self._free -= size
        return True

    def give_back(self, size: int) -> None:
        self._free += size

    def keep(self, facts: Facts, headers: Mapping[str, str], credential: list[Header]) -> Kept:
        """Begin to keep a request that was sent; to be ended by ``finish``. ``headers``: the client's."""
        own = headers.get("authorization", "")
        values = (headers.get("x-bf-vk"), headers.get("x-api-key"), bearer(own) or own)
        known = [value for value in values if value]
        for _, value in credential:
            text = value.decode("latin-1")
            known.append(bearer(text) or text)
        return Kept(self, facts, tuple(dict.fromkeys(known)))

    def finish(self, kept: Kept) -> None:
        """The answer is over, however it ended."""
        self._queue.append(kept)
        if not self._working:
            self._working = True
            self._spawn(self._work())

    # ---- afterwards

    async def _work(self) -> None:
        try:
            while self._queue:
                kept = self._queue.popleft()
                value: bytes | None = None
                try:
                    value = await self._event_of(kept)
                except Exception as error:
                    self.counts["failed"] += 1
                    # The error's own text, and its traceback's, might quote what this is about.
                    log.error("content_not_stored", error=type(error).__name__, request_id=kept.facts.request_id)
                finally:
                    kept.drop()
                if value is not None:
                    # Not waited for here: the outbox makes many records durable at once.
                    await self._appending.acquire()
                    self._spawn(self._append(kept.facts.request_id, value))
        finally:
            self._working = False

    async def _append(self, request_id: str, value: bytes) -> None:
        try:
            self.counts["stored" if await self._outbox.offer_content(request_id, value) else "lost"] += 1
        finally:
            self._appending.release()

    async def _event_of(self, kept: Kept) -> bytes:
        if self._redactor is None:
            self._redactor = await asyncio.to_thread(_redactor, self._settings.patterns)
        room = self._settings.max_bytes
        while True:
            value = self._encoded(await self._read(kept, self._redactor, room))
            if len(value) <= MAX_RECORD_BYTES - RECORD_ROOM:
                return value
            room //= 2  # texts full of what JSON has to escape
            await asyncio.sleep(0)

    def _encoded(self, content: Content) -> bytes:
        return encode_event(
            id=f"content:{content.request_id}",
            source="bursar/edge",
            type=CONTENT_RECORDED,
            time=rfc3339(self._now_ms()),
            subject=content.request_id,
            data=content,
        )

    async def _read(self, kept: Kept, redactor: Redactor, room: int) -> Content:
        facts, admitted = kept.facts, kept.facts.admitted
        assert admitted is not None
        prompt = _Taken(redactor, kept.known, room, newest_first=True)
        if kept.body:
            for part in prompt_parts(kept.body):
                if not await prompt.add(part):
                    break
        answer = _Taken(redactor, kept.known, room, newest_first=False)
        data = await _answer_bytes(kept)
        if data is not None:
            for part in await _parts_of(kept, data):
                if not await answer.add(part):
                    break
        owners, reader, attribution = admitted.owners, facts.reader, facts.attribution
        return Content(
            request_id=facts.request_id,
            started_at_ms=facts.started_at_ms,
            virtual_key_id=owners.virtual_key_id,
            team_id=owners.team_id,
            customer_id=owners.customer_id,
            user_id=owners.user_id,
            session_id=attribution.session,
            agent_id=attribution.agent,
            model=(reader.model if reader is not None else "") or facts.head.model,
            prompt=tuple(reversed(prompt.parts)),
            answer=tuple(answer.parts),
            prompt_bytes=kept.prompt_bytes,
            answer_bytes=kept.answer.size if kept.answer is not None else 0,
            prompt_cut=kept.prompt_cut or prompt.cut,
            answer_cut=data is None or (kept.answer is not None and kept.answer.cut) or answer.cut,
            redacted=prompt.redacted + answer.redacted,
        )


async def _answer_bytes(kept: Kept) -> bytes | None:
    """The answer as far as it was kept, decoded; None where that cannot be undone."""
    if kept.answer is None:
        return b""
    data = kept.answer.kept()
    if kept.encoding in ("", "identity"):
        return data
    return await asyncio.to_thread(decoded, data, kept.encoding, MAX_DECODED_ANSWER_BYTES)


async def _parts_of(kept: Kept, data: bytes) -> list[RawPart]:
    if not kept.stream:
        return answer_parts(data, good=kept.good)
    stream = StreamParts(data)
    for _ in stream.steps():
        await asyncio.sleep(0)
    return stream.parts()


def content_settings(settings: Settings) -> ContentSettings:
    """Raises SettingsError where an operator's expression cannot be used."""
    if settings.content_patterns:
        from bursar_edge.redaction import BadPattern

        try:
            _redactor(settings.content_patterns)
        except BadPattern as problem:
            raise SettingsError(f"BURSAR_CONTENT_PATTERNS: {problem}") from None
    return ContentSettings(settings.content_max_bytes, settings.content_patterns)


def _redactor(patterns: str) -> Redactor:
    from bursar_edge.redaction import Redactor  # 20 ms and some MB, only where content is on

    return Redactor(patterns)


class _Taken:
    """Parts taken until there is no room left, secrets out of each."""

    def __init__(self, redactor: Redactor, known: tuple[str, ...], room: int, *, newest_first: bool) -> None:
        self._redactor = redactor
        self._known = known
        self._room = room
        self._newest_first = newest_first
        self._turn = 0
        self.parts: list[ContentPart] = []
        self.redacted = 0
        self.cut = False

    async def add(self, part: RawPart) -> bool:
        """Take a part; False: there was no room for all of it."""
        if self._room <= 0 or len(self.parts) >= MAX_PARTS:
            self.cut = True
            return False
        # Before it is cut, so that no half of a secret is left.
        text = await self._clean(part.value if isinstance(part.value, str) else as_text(await self._inside(part.value)))
        name = await self._clean(part.name)
        kept = fitting(text, self._room, keep_end=self._newest_first)
        self._room -= len(kept.encode("utf-8", "replace")) + len(name) + RECORD_ROOM // MAX_PARTS
        self.parts.append(ContentPart(part.role, part.kind, name, kept))
        self.cut = self.cut or len(kept) < len(text)
        return not self.cut

    async def _clean(self, text: str) -> str:
        if len(text) > ON_THREAD_CHARS:
            text, count = await asyncio.to_thread(self._redactor.redact, text, self._known)
        else:
            self._turn += len(text) + 200
            if self._turn > TURN_CHARS:
                self._turn = 0
                await asyncio.sleep(0)
            text, count = self._redactor.redact(text, self._known) if text else (text, 0)
        self.redacted += count
        return text

    async def _inside(self, value: Any, depth: int = 0) -> Any:
        """JSON whose texts are clean: escapes may hide in its encoded form what a pattern looks for."""
        if isinstance(value, str):
            return await self._clean(value)
        if depth > MAX_DEPTH:
            return "[deeper levels are left out]"
        if isinstance(value, dict):
            return {await self._clean(name): await self._inside(each, depth + 1) for name, each in value.items()}
        if isinstance(value, list):
            return [await self._inside(each, depth + 1) for each in value]
        return value
