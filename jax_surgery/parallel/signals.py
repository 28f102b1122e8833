# SPDX-License-Identifier: Apache-2.0
"""Signals that stop a run: answered at once, whatever it computes, and never lost.

Python runs a signal's handler in the main thread between two instructions of its own:
not while XLA compiles or computes, and an exception that a handler raises is lost where
a finaliser of some library runs. So a thread reads signals from the descriptor that
Python's C handler writes to. It says what happens next, and ends the process itself
where the main thread does not.

Ctrl-C (SIGINT), SIGTERM and SIGHUP (the terminal is gone) mean the same.
"""

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

STOPPED = 130  # exit code of a run that was asked to stop, as shells say of Ctrl-C
# How long the main thread may take to end after a signal that stops at once.
SECONDS_TO_END = 3.0

_stderr = 2  # the descriptor of messages


def _names() -> tuple[signal.Signals, ...]:
    found = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)  # not on Windows
    # Whoever started the run with `nohup` wants it to go on.
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
        found.append(hangup)
    return tuple(found)


def say(text: str) -> None:
    """Prints a line on stderr, on a line of its own; a closed terminal is no error.

    Not by `sys.stderr`, whose lock the main thread may hold while it waits for us.
    """
    with contextlib.suppress(OSError):
        os.write(_stderr, f"\n{text}\n".encode(errors="replace"))


class _Watch:
    """What signals came, and what they are to do."""

    def __init__(self):
        self.lock = threading.RLock()
        self.users = 0  # of `handling`, one within another
        # What a run saves before it stops, "this step" say; None: it stops at once.
        self.saves: str | None = None
        self.asked = False  # to stop at the next point
        self.ending = False  # at once
        self.raises = False  # the main thread has yet to be told
        self.name = ""  # of the first signal
        self.last_words = "stopped at once, before the run began."
        self.before_exit: list[Callable[[str, int], None]] = []
        self._read = self._write = -1
        self._outer = -1  # a descriptor that somebody else reads
        self._handlers: dict[signal.Signals, object] = {}
        self._timer: threading.Timer | None = None

    def install(self) -> bool:
        """Takes signals over; False outside the main thread, which alone may."""
        if threading.current_thread() is not threading.main_thread():
            return False
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self.asked = self.ending = self.raises = False
        self.name = ""
        self._outer = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._handlers = {n: signal.signal(n, self._handle) for n in _names()}
        thread = threading.Thread(target=self._listen, args=(self._read,), daemon=True)
        thread.start()
        return True

    def remove(self) -> None:
        """Gives signals back to whoever had them."""
        for number, handler in self._handlers.items():
            # None: a handler that was not installed from Python.
            signal.signal(number, handler or signal.SIG_DFL)  # pyrefly: ignore
        self._handlers = {}
        signal.set_wakeup_fd(self._outer)
        with self.lock:
            if self._timer is not None:
                self._timer.cancel()
            self._read = -1
            os.close(self._write)  # ends the thread, which closes the other end

    def _listen(self, descriptor: int) -> None:
        while True:
            select.select([descriptor], [], [])
            with self.lock:
                if not self._take(descriptor):
                    os.close(descriptor)
                    return

    def _take(self, descriptor: int) -> bool:
        """Acts on all signals that came; False once nobody can send any more."""
        with self.lock:
            try:
                numbers = os.read(descriptor, 4096)
            except BlockingIOError:
                return True
            for number in numbers:
                if number in self._handlers:
                    self._act(signal.Signals(number).name)
                elif self._outer >= 0:
                    with contextlib.suppress(OSError):
                        os.write(self._outer, bytes([number]))
            return bool(numbers)

    def _act(self, name: str) -> None:
        self.name = self.name or name
        if self.saves is not None and not self.asked:
            self.asked = True
            say(
                f"{name}: stopping after {self.saves}; once more stops at once, "
                "without saving"
            )
        elif self.ending or self.asked:
            self._end()
        else:
            self.ending = self.raises = True
            say(f"{name}: stopping at once; what was saved before stays")
            self._timer = threading.Timer(SECONDS_TO_END, self._end)
            self._timer.daemon = True
            self._timer.start()

    def _end(self) -> None:
        """Ends the process, unless the run has ended meanwhile."""
        with self.lock:
            if not self.users:
                return
            self.ending = True
            leave(self.last_words, STOPPED)

    def _handle(self, number, frame) -> None:
        """In the main thread; whoever comes first, this or the thread, reads."""
        del number, frame
        with self.lock:
            if self._read >= 0:
                self._take(self._read)
            if not self.raises:
                return
            self.raises = False
        raise KeyboardInterrupt


_watch = _Watch()
_leaving = threading.Lock()


@contextlib.contextmanager
def handling() -> Iterator[None]:
    """Inside, a signal stops at once: it raises KeyboardInterrupt in the main thread,
    and ends the process with `STOPPED` where nothing comes of that for 3 seconds, or
    after a second signal. Outside the main thread nothing changes."""
    if _watch.users == 0 and not _watch.install():
        yield
        return
    _watch.users += 1
    try:
        yield
    finally:
        _watch.users -= 1
        if _watch.users == 0:
            _watch.remove()


@contextlib.contextmanager
def listening(saves: str) -> Iterator[None]:
    """Inside, the first signal asks (see `asked`), and a second one ends the process.

    Args:
      saves: what the run saves before it stops, for the line that is printed.

    Raises:
      KeyboardInterrupt: at the end, where a signal came after the last point at which
        the run could have stopped.
    """
    if _watch.saves is not None:  # within another one, whose end it is not
        before, _watch.saves = _watch.saves, saves
        try:
            yield
        finally:
            _watch.saves = before
        return
    with handling():
        _watch.saves = saves
        try:
            yield
        except BaseException:
            with _watch.lock:
                _watch.saves, _watch.asked = None, False
            raise
        with _watch.lock:
            _watch.saves, asked, _watch.asked = None, _watch.asked, False
            # This process alone knows: it ends at once, and tells the others (`end`).
            _watch.ending = _watch.ending or asked
        if asked:
            raise KeyboardInterrupt


def asked() -> bool:
    """Whether a signal has asked this process to stop at the next point."""
    return _watch.asked


def ending() -> bool:
    """Whether a signal has told this process to stop at once."""
    return _watch.ending


def first_signal() -> str:
    """The name of the first signal that came; "" if none did."""
    return _watch.name


def last_words() -> str:
    """What is printed where a signal ends the process."""
    return _watch.last_words


def set_last_words(text: str) -> None:
    """Says what is printed where a signal ends the process: how to go on."""
    _watch.last_words = text


def before_exit(tell: Callable[[str, int], None]) -> None:
    """Has a function called with the last words and the exit code, before `leave`
    ends the process."""
    _watch.before_exit.append(tell)


def speak_to(descriptor: int) -> None:
    """Sends messages to that descriptor in the place of 2."""
    global _stderr
    _stderr = descriptor


def leave(words: str, code: int) -> NoReturn:
    """Ends the process now, whatever its threads do, with one message and a code.

    Only the first caller speaks.
    """
    if not _leaving.acquire(blocking=False):
        threading.Event().wait()  # another thread is about to end the process
    say(words)

    def last() -> None:
        for tell in _watch.before_exit:
            tell(words, code)
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()

    # In a thread, because either may wait for somebody who never comes.
    thread = threading.Thread(target=last, daemon=True)
    thread.start()
    thread.join(2 * SECONDS_TO_END)
    os._exit(code)


def end(words: str, code: int) -> NoReturn:
    """Ends the process with one message and a code; at once, in the midst of all its
    threads, where it is one of several, which are told."""
    if _watch.before_exit:
        leave(words, code)
    print(words, file=sys.stderr)
    sys.exit(code)
