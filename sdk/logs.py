"""Where Foliot's own log lines go: to standard error, one event a line."""

from __future__ import annotations

import sys

import structlog


def configure_logging(*, json: bool = False) -> None:
    """Configure structlog for the whole process."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if json
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if json:
        processors.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*processors, renderer], logger_factory=structlog.PrintLoggerFactory(file=sys.stderr)
    )  # fmt: skip


def configure_logging_once() -> None:
    """Configure it unless the program has done so: an embedded scheduler must not write to standard output."""
    if not structlog.is_configured():
        configure_logging()
