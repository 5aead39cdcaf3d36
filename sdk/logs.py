"""Where Foliot's own log lines go: to standard error, one event a line, with the name of the node or worker that says it."""

from __future__ import annotations

import logging
import os
import sys
from typing import Final

import structlog

DEBUG_VARIABLE: Final = "FOLIOT_DEBUG"


def configure_logging(*, json: bool = False) -> None:
    """Configure structlog for the whole process. What concerns a single shard is shown only with FOLIOT_DEBUG set."""
    level = logging.DEBUG if os.environ.get(DEBUG_VARIABLE) else logging.INFO
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
    )
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if json:
        processors.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*processors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )


def configure_logging_once() -> None:
    """Configure it unless the program has done so: an embedded scheduler must not write to standard output."""
    if not structlog.is_configured():
        configure_logging()
