# SPDX-License-Identifier: Apache-2.0
"""Keeps back the tracebacks that Orbax logs, also from threads of its own, of what is
said here in one line."""

import contextlib
import gc
import logging as python_logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from absl import logging


class _WithoutErrors:
    """A `sys.unraisablehook` that shows what is no Exception alone, as Ctrl-C."""

    def __init__(self):
        self.before: Any = sys.__unraisablehook__

    def __call__(self, found: Any) -> None:
        if not issubclass(found.exc_type, Exception):
            self.before(found)


# It lives on: threads may still be in it when `reading` has ended, and Python 3.12 holds
# no reference to the hook that it calls.
_without_errors = _WithoutErrors()


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Keeps back what Orbax and what it starts say of damage; here it is one line.

    Reads that had begun when one failed end later, in other threads, and each would
    print a traceback. All is shown where --verbosity asks for more than warnings.
    """
    before, asyncio = logging.get_verbosity(), python_logging.getLogger("asyncio")
    if before > logging.WARNING:
        yield
        return
    level, unraisable = asyncio.level, sys.unraisablehook
    if unraisable is not _without_errors:
        _without_errors.before = unraisable
    logging.set_verbosity(logging.FATAL)
    asyncio.setLevel(python_logging.CRITICAL)
    sys.unraisablehook = _without_errors
    try:
        yield
    except BaseException:
        _ignore_closed_loops()
        with warnings.catch_warnings(action="ignore"):
            gc.collect()  # what was left of the reads is closed here
        raise
    finally:
        logging.set_verbosity(before)
        asyncio.setLevel(level)
        sys.unraisablehook = unraisable


def _ignore_closed_loops() -> None:
    """Sets `sys.excepthook` so that reads whose event loop has ended are not shown."""
    before = sys.excepthook
    if getattr(before, "__name__", "") == "without_closed_loops":
        return

    def without_closed_loops(kind, error, trace) -> None:
        if not (kind is RuntimeError and str(error) == "Event loop is closed"):
            before(kind, error, trace)

    sys.excepthook = without_closed_loops


class _WithoutTracebacks(python_logging.Filter):
    """Leaves out what Orbax logs of a failed save, from each of its threads; it is raised
    as well, and said in a line."""

    def filter(self, record: python_logging.LogRecord) -> bool:
        inside = "orbax" in record.pathname
        if logging.get_verbosity() > logging.WARNING:
            return True
        return not (inside and (record.exc_info or "previous save" in record.msg))


def saving() -> None:
    """Makes Orbax log no tracebacks, unless --verbosity asks for more than warnings."""
    absl = logging.get_absl_logger()
    if not any(isinstance(own, _WithoutTracebacks) for own in absl.filters):
        absl.addFilter(_WithoutTracebacks())
