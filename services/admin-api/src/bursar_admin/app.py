"""The admin API's process: put together, started, stopped."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from bursar_admin import freshness
from bursar_admin.access import check_content_type, check_start
from bursar_admin.body import MAX_BODY_BYTES
from bursar_admin.desk import Desk
from bursar_admin.enforcer import Enforcer
from bursar_admin.errors import PROVIDER_SHAPED, Refusal
from bursar_admin.journal import Journal
from bursar_admin.pages.frame import Frame, wants_page
from bursar_admin.pages.routes import routes as page_routes
from bursar_admin.past import Past
from bursar_admin.projection import Projection
from bursar_admin.providers import first_events
from bursar_admin.routes import (
    Route,
    budget_totals,
    config,
    content,
    customers,
    dead_letters,
    events,
    health,
    insights,
    live,
    logs,
    metrics,
    money,
    openapi,
    preview,
    prices,
    providers,
    sessions,
    system,
    teams,
    usage_sums,
    users,
    virtual_keys,
)
from bursar_admin.spending import Spending
from bursar_common.clock import Clock, SystemClock
from bursar_common.eventlog import open_log
from bursar_common.eventlog.port import EventLog, LogIncompatible, LogUnavailable, OffsetLost
from bursar_common.ids import IdMinter, uuid7
from bursar_common.otlp_metrics import open_telemetry
from bursar_common.service import listen, run, until_signalled
from bursar_common.settings import Settings, SettingsError, load_settings
from bursar_common.telemetry import configure_logging

log = structlog.get_logger()

START_TIMEOUT_S = 60.0
"""How long the log may be away at start before the process gives up (its supervisor starts it again)."""
START_RETRY_S = 1.0
SHUTDOWN_TIMEOUT_S = 10.0
"""For answers in flight at SIGTERM; the longest command waits 5 s for the ledger."""
REQUEST_ID_HEADER = "x-bursar-request-id"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_desk(settings: Settings, event_log: EventLog, *, clock: Clock | None = None, mint: IdMinter = uuid7) -> Desk:
    """The parts of the service, not started."""
    clock = clock or SystemClock()
    enforcer = Enforcer(settings.enforcer_url, settings.internal_token.get_secret_value(), clock)
    journal = Journal(event_log, Projection(), enforcer, clock, mint)
    # On Kafka a topic has one consumer, which is moved about: who follows it must not be.
    open_own = (lambda: open_log(settings)) if settings.kafka_bootstrap else None
    past = Past(event_log, journal.chronicle.index, journal.projection, open_own)
    spending = Spending(settings.clickhouse_url, enforcer, ca_file=settings.ca_file)
    return Desk(settings, journal, enforcer, spending, clock, mint, past)


def route_table(desk: Desk) -> list[Route]:
    """Everything that is answered."""
    table = [
        route
        for module in (
            customers,
            teams,
            users,
            virtual_keys,
            money,
            providers,
            prices,
            preview,
            budget_totals,
            config,
            dead_letters,
            events,
            system,
            usage_sums,
            live,
            logs,
            content,
            sessions,
            insights,
            health,
            metrics,
        )
        for route in module.routes(desk)
    ]
    return [*table, openapi.route(table)]


def make_app(desk: Desk) -> web.Application:
    """The web application over a desk."""
    frame = Frame(desk)
    table = [*route_table(desk), *page_routes(desk, frame)]
    by_operation = {(route.method, route.path): route for route in table}
    app = web.Application(middlewares=[_outermost(desk, frame, by_operation)], client_max_size=MAX_BODY_BYTES)
    # Before handlers are waited for: those of watchers have no end of their own.
    app.on_shutdown.append(lambda _: desk.live.close())
    for route in table:
        app.router.add_route(route.method, route.path, route.handler)
        if route.method == "GET":
            app.router.add_route("HEAD", route.path, route.handler)
    return app


def _outermost(desk: Desk, frame: Frame, by_operation: dict[tuple[str, str], Route]) -> Middleware:
    @web.middleware
    async def outermost(request: web.Request, handler: Handler) -> web.StreamResponse:
        began_s = desk.clock.monotonic_s()
        request_id = desk.mint()
        freshness.accept(request)
        structlog.contextvars.bind_contextvars(request_id=request_id)  # on every log line of this request's task
        try:
            _admit(request)
            response = await handler(request)
        except Refusal as refusal:
            response = refused(request, refusal, request_id)
        except web.HTTPSeeOther as redirection:
            response = web.Response(status=redirection.status, headers={"Location": str(redirection.location)})
        except web.HTTPException as error:
            response = refused(request, _translated(error, request), request_id)
        except Exception as error:
            log.exception("request_failed", error=type(error).__name__)
            response = refused(
                request,
                Refusal(500, "internal_error", "Something went wrong on our side; the log has the request id."),
                request_id,
            )
        finally:
            structlog.contextvars.unbind_contextvars("request_id")  # the connection's next request is another
        desk.meter.answered(request.method, _path(request), response.status, desk.clock.monotonic_s() - began_s)
        response.headers[REQUEST_ID_HEADER] = request_id
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    def refused(request: web.Request, refusal: Refusal, request_id: str) -> web.Response:
        if wants_page(request):
            return frame.failure(request, refusal, request_id)
        return _refused(request, refusal, request_id)

    def _admit(request: web.Request) -> None:
        path = _path(request)
        method = "GET" if request.method == "HEAD" else request.method
        route = by_operation.get((method, path))
        if route is not None and (route.probe or route.own_access):
            return
        desk.access.check(request.headers, open_page=route is not None and (route.open_page or route.key_page))
        if desk.access.needs_json(request.method, request.headers, request.can_read_body):
            check_content_type(request.headers)
        if not desk.journal.started:
            raise Refusal(503, "unavailable_error", "The governance log has not been read yet; try again.")

    return outermost


def _path(request: web.Request) -> str:
    """The route's path, empty where there is none."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else ""


def _refused(request: web.Request, refusal: Refusal, request_id: str) -> web.Response:
    provider_shaped = request.path.startswith(PROVIDER_SHAPED)
    body = refusal.as_provider_json(request_id) if provider_shaped else refusal.as_json(request_id)
    return web.json_response(body, status=refusal.status, headers=dict(refusal.headers))


def _translated(error: web.HTTPException, request: web.Request) -> Refusal:
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return Refusal(405, "method_not_allowed_error", f"This path answers {allowed}.", headers={"Allow": allowed})
    if error.status == 404:
        return Refusal(404, "not_found_error", "There is nothing at this path; /api/openapi.json lists what there is.")
    if error.status == 413:
        return Refusal(413, "request_too_large", f"The body is larger than {MAX_BODY_BYTES} bytes.")
    return Refusal(error.status, "invalid_request_error", error.reason)


class _NoDetails(logging.Filter):
    """aiohttp logs a malformed request with the bytes it could not read: those may be credentials."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.exc_info, record.exc_text, record.args = None, None, ()
        record.msg = "a request could not be read"
        return True


def _server_logger() -> logging.Logger:
    logger = logging.getLogger("bursar.admin.http")
    if not logger.filters:
        logger.addFilter(_NoDetails())
    return logger


async def open_runner(desk: Desk) -> web.AppRunner:
    """A runner that is set up but listens nowhere yet."""
    runner = web.AppRunner(
        make_app(desk),
        access_log=None,
        logger=_server_logger(),
        auto_decompress=False,
        shutdown_timeout=SHUTDOWN_TIMEOUT_S,
    )
    await runner.setup()
    return runner


async def check_log(settings: Settings) -> None:
    """Raises SettingsError where the topics are not as they must be (each problem with its fix), LogUnavailable."""
    if settings.kafka_bootstrap:
        from bursar_common.topics import refuse_wrong_topics  # brings the Kafka client along

        await refuse_wrong_topics(settings)


async def start_desk(desk: Desk, settings: Settings) -> None:
    """Check the log, read it to its end and write what a first start needs.

    Raises LogUnavailable, LogIncompatible, OffsetLost, SettingsError."""
    await desk.enforcer.start()
    deadline_s = desk.clock.monotonic_s() + START_TIMEOUT_S
    while True:
        try:
            await check_log(settings)
            await desk.journal.start()
            break
        except LogUnavailable:
            if desk.clock.monotonic_s() >= deadline_s:
                raise
            log.warning("governance_log_unavailable_at_start")
            await asyncio.sleep(START_RETRY_S)
    await desk.journal.begin(first_events(desk.projection, desk.moment("system")))


async def stop_desk(desk: Desk) -> None:
    await desk.past.close()
    await desk.journal.close()
    await desk.spending.close()
    await desk.analytics.close()
    await desk.enforcer.close()


async def serve(settings: Settings) -> int:
    """Run until SIGTERM (0) or until the log is lost (1)."""
    desk = make_desk(settings, open_log(settings))
    telemetry = open_telemetry(os.environ, metrics.metrics_of(desk))
    runner = await open_runner(desk)
    await listen(runner, settings.admin_listen)
    telemetry.start()
    signalled = asyncio.create_task(until_signalled())
    starting = asyncio.create_task(start_desk(desk, settings))
    try:
        await asyncio.wait({signalled, starting}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            return 0
        starting.result()
        log.info("admin_api_ready", listen=settings.admin_listen)
        follower = desk.journal.follower
        assert follower is not None
        await asyncio.wait({signalled, follower}, return_when=asyncio.FIRST_COMPLETED)
        return 0 if signalled.done() else 1
    except (LogUnavailable, LogIncompatible, OffsetLost) as error:
        print(f"The governance log cannot be read: {error}", file=sys.stderr)  # noqa: T201
        return 1
    finally:
        starting.cancel()
        signalled.cancel()
        await asyncio.gather(starting, signalled, return_exceptions=True)
        await runner.cleanup()
        await telemetry.stop()
        await stop_desk(desk)


def main() -> int:
    """Exit code of the process: 0 after SIGTERM, 1 when the log is lost, 2 for wrong settings."""
    try:
        settings = load_settings(os.environ, required=("enforcer_url", "internal_token", "key_secret"))
        check_start(settings)
        if settings.clickhouse_url and not settings.clickhouse_url.startswith(("http://", "https://")):
            raise SettingsError(
                "BURSAR_CLICKHOUSE_URL must be http:// or https:// here; chdb: is the aggregator's alone."
            )
        configure_logging("admin-api", settings.log_level)
        return run(lambda: serve(settings))
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
