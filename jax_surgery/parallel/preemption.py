# SPDX-License-Identifier: Apache-2.0
"""Stopping early: a signal to any one process stops all of them at the same point.

On one process the first Ctrl-C or SIGTERM asks the run to save and stop, and a second
one ends it at once. On many processes JAX's coordination service takes a SIGTERM that
any of them gets and chooses a point that all of them reach; Ctrl-C is passed on to it.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

import jax

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Request:
    """What this process knows: whether a stop was asked for, and who listens."""

    asked = False
    listening = False
    points = 0  # that this process has reached; the same number on all of them


_request = _Request()


def _say_so() -> None:
    print(
        "\nstopping after this step, which is saved; once more stops at once, without saving",
        file=sys.stderr,
    )


def install() -> None:
    """Makes signals mean the same on every process of a run.

    Must run once JAX has joined the processes, and before the run begins.
    """
    if not jax.distributed.is_initialized():
        return
    if jax.process_count() == 1:
        # JAX has taken SIGTERM over, for nobody: outside a loop it must end the process.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return

    def ask(number, frame):
        del number, frame
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _say_so()
        # JAX's own handler takes it, and informs the other processes.
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGINT, ask)


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Inside, the first Ctrl-C or SIGTERM asks (see `reached`), and a second one ends
    the process. On many processes nothing changes: `install` has seen to it."""
    if _request.listening or jax.process_count() > 1:
        yield
        return
    before = {}

    def ask(number, frame):
        del frame
        _request.asked = True
        signal.signal(number, before[number])
        _say_so()

    for number in SIGNALS:
        try:
            before[number] = signal.signal(number, ask)
        except ValueError:  # not in the main thread, which alone gets signals
            break
    _request.listening = True
    try:
        yield
    finally:
        _request.listening = _request.asked = False
        for number, handler in before.items():
            signal.signal(number, handler)


def reached() -> bool:
    """Whether the run is to save what it has, here, and stop.

    Of many processes all must ask at the same points of the program; all get the same
    answer at the same point, within about two seconds after a signal.
    """
    if jax.process_count() > 1 and not _request.asked:
        from jax.experimental import multihost_utils

        _request.points += 1
        _request.asked = multihost_utils.reached_preemption_sync_point(_request.points)
    return _request.asked
