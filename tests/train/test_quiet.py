# SPDX-License-Identifier: Apache-2.0
"""What is kept back while a checkpoint is read."""

import gc
import sys
import weakref

from jax_surgery.train import quiet


class Left:
    """An object whose end raises an error that nobody can catch."""

    def __init__(self, error):
        self.error = error

    def __del__(self):
        raise self.error


def test_errors_of_finalisers_are_kept_back_and_ctrl_c_is_not(monkeypatch):
    seen = []
    monkeypatch.setattr(
        sys, "unraisablehook", lambda found: seen.append(found.exc_type)
    )
    with quiet.reading():
        Left(ValueError("a read that nobody waits for"))
        Left(KeyboardInterrupt())
        with quiet.reading():
            Left(ValueError())
        Left(ValueError())
    Left(ValueError())
    assert seen == [KeyboardInterrupt, ValueError]


def test_a_thread_may_still_be_in_the_hook_when_it_is_taken_away():
    """Python 3.12 holds no reference to the hook that it calls, and crashed."""
    with quiet.reading():
        hook = weakref.ref(sys.unraisablehook)
    gc.collect()
    assert hook() is not None
    with quiet.reading():
        assert sys.unraisablehook is hook()
