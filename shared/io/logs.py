"""Structured JSON logs with rotation; one logger per program, built in its `app.py` and handed down.

Input text is never logged: callers log ids, sizes and reasons. What a program was asked to log of inputs is its own setting.
"""

import logging
import logging.handlers
import sys
from pathlib import Path

import structlog

from shared.protocol.errors import Refused

Log = structlog.typing.FilteringBoundLogger


def build(
    program: str, *, level: str = "info", file: Path | None = None, max_bytes: int = 10_000_000, backups: int = 5
) -> Log:
    """A JSON logger to standard error and, where `file` is given, to a file that rotates at `max_bytes`.

    Every line has `event`, `level`, `at` (ISO 8601 UTC) and `program`; context bound with `structlog.contextvars`
    (`request_id`) is merged in.

    Raises:
        Refused: the file cannot be written.

    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if file is not None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handlers.append(logging.handlers.RotatingFileHandler(file, maxBytes=max_bytes, backupCount=backups))
        except OSError as error:
            message = f"the log cannot be written: {error.strerror}"
            raise Refused(message, field="log_file", value=str(file), allowed="a file that can be written") from error
    sink = logging.Logger(program)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        structlog.processors.format_exc_info,
    ]
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(message)s"))
        sink.addHandler(handler)
    # Third parties log through the standard library: warnings and worse come out in the same form.
    root = logging.getLogger()
    root.handlers = [_json_handler(handler, shared) for handler in handlers]
    root.setLevel(logging.WARNING)
    log: Log = structlog.wrap_logger(
        sink,
        processors=[*shared, structlog.processors.JSONRenderer(ensure_ascii=False)],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        program=program,
    )
    return log


def _json_handler(handler: logging.Handler, shared: list[structlog.typing.Processor]) -> logging.Handler:
    copy = _Passing(handler)
    copy.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(ensure_ascii=False),
            ],
        )
    )
    return copy


class _Passing(logging.Handler):
    """Formats third-party records and hands the finished line to the program's own handler, which owns the stream."""

    def __init__(self, target: logging.Handler) -> None:
        super().__init__()
        self._target = target

    def emit(self, record: logging.LogRecord) -> None:
        line = logging.LogRecord(
            record.name, record.levelno, record.pathname, record.lineno, self.format(record), None, None
        )
        self._target.emit(line)
