# SPDX-License-Identifier: Apache-2.0
"""Stopping early: a signal to any one process stops all of them at the same point.

A run asks at points of its program, `reached`, whether it is to stop there. On many
processes each point sends what a process knows to all others in a small collective,
whose result the next point reads. All read the same results in the same order, so they
stop at the same point, whenever a signal reaches which of them, and no process waits
for another one that it would not have waited for in the next step.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jax_surgery.parallel import signals


class Stopped(BaseException):
    """Raised by `pass_point`; whoever made it `interruptible` saves and stops.

    No Exception: nothing on the way may take it for an error of its own.
    """


class _Request:
    """What this process knows of the others."""

    agreed = False  # all have heard that one of them was asked
    answer: Any = None  # of the last point, on its way
    interruptible = False


_request = _Request()


@functools.cache
def _reduction() -> tuple[jax.NamedSharding, Any]:
    """How one flag of each device is laid out, and what finds the largest of them."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("all",))
    everywhere = jax.NamedSharding(mesh, jax.P())
    largest = jax.jit(lambda flags: flags.max(), out_shardings=everywhere)
    return jax.NamedSharding(mesh, jax.P("all")), largest


def _tell_all(asked: bool) -> Any:
    """Whether any process is asked, an array that is there in a while."""
    split, largest = _reduction()
    mine = np.full(jax.local_device_count(), asked, np.int32)
    shape = (jax.device_count(),)
    return largest(jax.make_array_from_process_local_data(split, mine, shape))


@contextlib.contextmanager
def listening(saves: str = "this step, which is saved") -> Iterator[None]:
    """Inside, the first Ctrl-C or SIGTERM asks (see `reached`), and a second one ends
    the process.

    Args:
      saves: what is saved before the run stops, for the line that says so.

    Raises:
      KeyboardInterrupt: a signal came too late for any point within.
    """
    try:
        with signals.listening(saves):
            yield
            if _request.agreed:
                # At the last point, after which its loop had nothing left to do.
                raise KeyboardInterrupt
    finally:
        _request.agreed = False


def reached() -> bool:
    """Whether the run is to save what it has, here, and stop.

    Of many processes all must ask at the same points of the program; all get the same
    answer at the same point, one point after the signal or two.
    """
    if jax.process_count() == 1:
        return signals.asked()
    if not _request.agreed:
        last, _request.answer = _request.answer, _tell_all(signals.asked())
        _request.agreed = last is not None and bool(last)
    return _request.agreed


@contextlib.contextmanager
def interruptible(value: bool = True) -> Iterator[None]:
    """Inside, what goes through batches may be stopped between two (`pass_point`), or
    may not."""
    before, _request.interruptible = _request.interruptible, value
    try:
        yield
    finally:
        _request.interruptible = before


def pass_point() -> None:
    """A point between two batches of a pass over text.

    Raises:
      Stopped: the run is to stop, and what is computed here can be left.
    """
    if _request.interruptible and reached():
        raise Stopped
