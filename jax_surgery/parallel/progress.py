# SPDX-License-Identifier: Apache-2.0
"""How far a run is: bars on a terminal and plain lines elsewhere, of the lead process.

What takes a while is a `Bar`, whose parts are counted, or a `phase`, of which the time
alone is known; one may lie inside another. A thread keeps them moving, so that a run says
what it does while it compiles too. A terminal shows all of them, and keeps those that took
long. A pipe, a file or TERM=dumb gets no carriage return but a line about the innermost
one when it has taken `LONG` seconds, and then ever less often. Nothing is coloured.
"""

import contextlib
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

import tqdm

from jax_surgery import command_line

LONG = 10.0  # seconds after which a phase says what it is, and is kept when it ends
SHORT = 1.0  # seconds that a terminal shows nothing of a phase, and between two looks
# A plain line comes again after this share of the time that its phase has taken so far,
# at least `LONG` and at most `SELDOM` seconds after the last one.
AGAIN, SELDOM = 0.05, 60.0
COLUMNS = 80  # of a plain line
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, "
BAR += "{rate_fmt}{postfix}]"
# What says which one of many processes this is, before JAX does.
PROCESS = ("JAX_PROCESS_ID", "TPU_WORKER_ID", "CLOUD_TPU_TASK_ID", "SLURM_PROCID")

_open: list["Bar"] = []  # the innermost last
_lock = threading.Lock()  # of `_open` and `_ended`
_ended = threading.Event()  # of the thread that now looks after them
_last = time.time()  # when something was printed


def on_terminal() -> bool:
    """Whether progress goes to a terminal that can go back to the start of a line, and
    says how long its lines are."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        return False
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except OSError:
        return False


def is_lead() -> bool:
    """Whether this process is the one that speaks.

    Before JAX has looked for devices, which is not to happen here, it is guessed.
    """
    if "jax" in sys.modules:
        # Nothing public says so without looking for them.
        from jax._src import xla_bridge

        from jax_surgery.parallel import distributed

        if xla_bridge.backends_are_initialized():
            return distributed.is_lead()
    return all(os.environ.get(name, "0") == "0" for name in PROCESS)


class Bar(tqdm.tqdm):
    """How many of some parts are done; without a total how long it takes.

    Use it in a `with` or iterate over it.
    """

    monitor_interval = 0  # the thread here does what tqdm's would

    def __init__(
        self,
        parts: Any = None,
        *,
        title: str,
        unit: str = "",
        total: float | None = None,
        initial: int = 0,
        keep: bool = False,
        disable: bool = False,
    ):
        """Shows nothing on processes other than the lead.

        Args:
          parts: to iterate over.
          title: what is done, such as "loading weights".
          unit: one part, such as "step"; "B" counts bytes.
          total: parts that there are; None takes the length of `parts`.
          initial: parts that were done before.
          keep: whether it is shown at once, and stays at the end however short it was.
        """
        self._plain, self._keep = not on_terminal(), keep
        # The parts of a run come one after another, short ones too; what is silent is
        # then counted through all of them.
        self._spoke = time.time() if len(_open) > 1 else _last
        super().__init__(
            parts,
            desc=title,
            total=total,
            initial=initial,
            unit=unit,
            unit_scale=unit == "B",
            bar_format=BAR,
            file=sys.stderr,
            delay=0 if keep else SHORT,
            mininterval=0.5,
            dynamic_ncols=True,
            leave=False,  # what is kept is printed
            disable=disable or not is_lead(),
        )
        if not self.disable:
            _opened(self)

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.time() - self.start_t

    def __str__(self) -> str:
        """The line on a terminal, with as many of the last numbers as have room."""
        found: dict[str, Any] = dict(self.format_dict)
        room = (found["ncols"] or COLUMNS) - 1
        if self.total is None:
            return f"{self.desc}: {_time(self.seconds)}"[:room]
        numbers = (self.postfix or "").split(", ")
        for count in range(len(numbers), -1, -1):
            postfix = ", ".join(numbers[:count])
            # Without a width tqdm draws a bar of ten characters.
            text = self.format_meter(**(found | {"ncols": None, "postfix": postfix}))
            if len(text) <= room:
                break
        return text[:room]

    def line(self, ended: bool = False) -> str:
        """The same as a plain line."""
        seconds, found = max(self.seconds, 1e-9), self.format_dict
        if self.total is None:
            return f"{self.desc}: {_time(seconds)}" + (" in all" if ended else "")
        done, ended = self.n - self.initial, ended or self.n >= self.total
        rate = done / seconds if ended or not found["rate"] else found["rate"]
        if self.unit == "B":
            size = tqdm.tqdm.format_sizeof
            parts = f"{size(self.n)}B of {size(self.total)}B"
            speed = f"{size(rate)}B/s"
        else:
            parts = f"{self.unit} {self.n:,} of {self.total:,}"
            speed = f"{rate:.3g}/s" if rate >= 1 else f"{1 / (rate or 1):.3g} s each"
        said = [f"{self.desc}: {parts}", _time(seconds) + (" in all" if ended else "")]
        if done:
            left = _time((self.total - self.n) / rate)
            said += [speed] if ended else [speed, f"{left} left"]
        said += self.postfix.split(", ") if self.postfix else []
        # A number goes where the line would be too long.
        while len(", ".join(said)) >= COLUMNS and len(said) > 1:
            said.pop()
        return ", ".join(said)

    def look(self) -> None:
        """Draws it again on a terminal, with the time that has gone on."""
        with self.get_lock():
            if not self.disable and self.seconds >= self.delay:
                self.delay = 0  # it is drawn, and so must be cleared
                self.refresh(nolock=True)

    def due(self) -> bool:
        """Whether a plain line about it is to come."""
        pause = min(max(LONG, AGAIN * self.seconds), SELDOM)
        return time.time() - self._spoke >= pause and self.seconds >= SHORT

    def speak(self) -> None:
        """Prints a plain line."""
        with self.get_lock():
            if not self.disable:
                self.spoken()
                _print(self.line())

    def spoken(self) -> None:
        """Notes that a line has come, about this or about what lies inside it."""
        self._spoke = time.time()

    def display(self, msg: str | None = None, pos: int | None = None) -> Any:
        """Draws it, where it is drawn."""
        return None if self._plain else super().display(msg, pos)

    def clear(self, nolock: bool = False) -> None:
        """Removes it from the screen until it is drawn again."""
        if not self._plain and self.seconds >= self.delay:
            super().clear(nolock)

    def close(self) -> None:
        """Ends it; what was kept or took long stays on the screen."""
        if self.disable:
            return
        _closed(self)
        keep = self._keep or self.seconds >= LONG
        last = self.line(ended=True) if keep and self._plain else str(self)
        super().close()
        if keep:
            _print(last)

    def __exit__(self, exc_type: object, exc_value: object, traceback: object) -> None:
        if exc_type and self.total is None:
            self.start_t = time.time()  # what it failed in is said by the error
        self.close()


def phase(title: str) -> Bar:
    """What is done inside, of which only the time is known."""
    return Bar(title=title)


@contextlib.contextmanager
def screen() -> Iterator[None]:
    """Inside, printed lines come above the bars, and of the lead process alone."""
    if not is_lead():
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
        return
    above: Any = _Above(sys.stdout)
    with contextlib.redirect_stdout(above):
        try:
            yield
        finally:
            above.end()


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A `warnings.showwarning` whose lines come above the bars, and of the lead process
    alone."""
    if is_lead():
        text = warnings.formatwarning(message, category, filename, lineno, line)
        text = text.rstrip()
        _print(command_line.wrapped(text) if on_terminal() else text, file)


class _Above:
    """Standard output, of which whole lines are written, above the bars."""

    def __init__(self, stream: TextIO):
        self._stream, self._line = stream, ""

    def write(self, text: str) -> int:
        whole, newline, self._line = (self._line + text).rpartition("\n")
        if newline:
            _print(whole, self._stream)
        return len(text)

    def end(self) -> None:
        """Writes what no newline has ended."""
        self._stream.write(self._line)
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _print(text: str, stream: TextIO | None = None) -> None:
    """Writes a line above the bars, to stderr where no stream is given."""
    global _last
    _last = time.time()
    stream = stream or sys.stderr
    with _lock:
        bars = list(_open)
    with tqdm.tqdm.get_lock():
        for bar in bars:
            bar.clear(nolock=True)
        stream.write(text + "\n")
        stream.flush()
    for bar in bars:
        bar.look()


def _time(seconds: float) -> str:
    """Seconds as "8 s", "2:05 min" or "1:02:05 h"."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, seconds = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes}:{seconds:02d} min"
    return f"{hours}:{minutes:02d}:{seconds:02d} h"


def _opened(bar: Bar) -> None:
    global _ended
    with _lock:
        _open.append(bar)
        if len(_open) == 1:
            _ended = threading.Event()
            threading.Thread(target=_watch, args=(_ended,), daemon=True).start()


def _closed(bar: Bar) -> None:
    with _lock:
        _open.remove(bar)
        if not _open:
            _ended.set()


def _watch(ended: threading.Event) -> None:
    """Looks after what is open, until nothing is."""
    while not ended.wait(SHORT):
        with _lock:
            bars = list(_open)
        if on_terminal():
            for bar in bars:
                bar.look()
            continue
        for place in range(len(bars) - 1, -1, -1):
            if bars[place].due():
                for outer in bars[:place]:
                    outer.spoken()
                bars[place].speak()
                break
