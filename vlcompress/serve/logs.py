"""Structured logs: one JSON object a line, on stderr."""

import json
import logging
import queue
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class JsonFormatter(logging.Formatter):
    """Writes time (UTC), level, logger and message, the fields given as `fields`, and a traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the line."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


class BackgroundHandler(logging.Handler):
    """Writes lines on a thread of its own, so that a reader of the log who stalls does not stall the server.

    When MOST_LINES wait to be written, further ones are dropped, and their number is told once there is room.
    """

    MOST_LINES = 10_000

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(self.MOST_LINES)
        self._dropped = 0
        self._writer = threading.Thread(target=self._write, name="log", daemon=True)
        self._writer.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line, or drop it."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Write what is left, for two seconds at most."""
        try:
            self._lines.put_nowait(None)
        except queue.Full:
            self._dropped += 1
        else:
            self._writer.join(2.0)
        super().close()

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            with suppress(OSError, ValueError):  # nobody reads the log any more
                self._stream.write(line + "\n")
                if self._dropped:
                    dropped, self._dropped = self._dropped, 0
                    self._stream.write(
                        json.dumps({"level": "warning", "message": "lines dropped", "lines": dropped}) + "\n"
                    )
                if self._lines.empty():
                    self._stream.flush()


@contextmanager
def json_logs(level: str) -> Iterator[None]:
    """Inside the block, send everything that this process logs to stderr as JSON lines.

    Args:
        level: key of LEVELS; what is below it is left out.
    """
    root, handler = logging.getLogger(), BackgroundHandler(sys.stderr)
    before, before_level = root.handlers[:], root.level
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("vlcompress", "uvicorn"):
        logging.getLogger(name).setLevel(LEVELS[level])
    try:
        yield
    finally:
        handler.close()
        root.handlers[:] = before
        root.setLevel(before_level)
