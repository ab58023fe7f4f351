"""Structured logs: one JSON object a line on standard error. Never content, never a secret."""

from __future__ import annotations

import logging
import sys
import threading
from types import TracebackType

import structlog
import structlog.tracebacks

_tracebacks = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))
"""Tracebacks without local variables: those hold keys, credentials and bodies."""


def configure_logging(service: str, level: str) -> None:
    """Set up structlog and route the standard library's loggers (warnings and up) through the same lines."""
    number = getattr(logging, level.upper())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_service(service),
    ]
    structlog.configure(
        processors=[
            *shared,
            _tracebacks,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _tracebacks,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(max(number, logging.WARNING))
    logging.captureWarnings(True)
    sys.excepthook = _died
    threading.excepthook = lambda ended: _died(ended.exc_type, ended.exc_value, ended.exc_traceback)


def _died(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """The end of the process, or of a thread, by what nobody caught: one line like any other."""
    if issubclass(kind, KeyboardInterrupt | SystemExit):
        return
    structlog.get_logger().critical("died", exc_info=(kind, error, trace))


def _add_service(service: str) -> structlog.typing.Processor:
    def add(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["service"] = service
        return event

    return add
