# SPDX-License-Identifier: Apache-2.0
"""What a run says of its progress: on a terminal, off one, and of the lead alone."""

import fcntl
import itertools
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
import warnings

import pytest
from command_lines import ROOT

from jax_surgery.parallel import progress


@pytest.fixture
def quick(monkeypatch):
    """Phases are long after a tenth of a second; nothing was printed for a while."""
    monkeypatch.setattr(progress, "LONG", 0.1)
    monkeypatch.setattr(progress, "SHORT", 0.01)
    monkeypatch.setattr(progress, "_last", time.time())


def until(bar, seconds):
    """Waits until a bar is so old."""
    while bar.seconds < seconds:
        time.sleep(0.01)


def test_off_a_terminal_what_takes_long_is_lines_with_time_and_rate(quick, capsys):
    with progress.Bar(title="second moments", unit="batch", total=4) as bar:
        bar.update(2)
        bar.set_postfix({"loss": "1.5"}, refresh=False)
        until(bar, 0.3)
        bar.update(2)
    first, *_, last = capsys.readouterr().err.splitlines()
    line = r"second moments: batch 2 of 4, 0 s, \S+/s, 0 s left, loss=1.5"
    assert re.fullmatch(line, first)
    line = r"second moments: batch 4 of 4, 0 s in all, \S+/s, loss=1.5"
    assert re.fullmatch(line, last)


def test_what_is_short_says_nothing(capsys):
    assert list(progress.Bar(range(3), title="a", unit="b")) == [0, 1, 2]
    with progress.phase("c"):
        pass
    assert capsys.readouterr() == ("", "")
    list(progress.Bar(range(3), title="the run", unit="step", keep=True))
    assert capsys.readouterr().err.startswith("the run: step 3 of 3, 0 s in all")


def test_the_innermost_phase_speaks_and_the_others_wait(quick, capsys):
    with progress.phase("outer"):
        with progress.phase("inner") as inner:
            until(inner, 0.35)
        said = capsys.readouterr().err.splitlines()
    assert said[-1] == "inner: 0 s in all"
    # The outer one may come first, where the inner one was too young to speak.
    assert "inner: 0 s" in said and said.count("outer: 0 s") <= 1
    assert "outer: 0 s in all" in capsys.readouterr().err


def test_several_short_phases_one_after_another_are_not_silent(quick, capsys):
    """Silence is counted from the last line on, and not from each phase on."""
    for _ in range(5):
        with progress.phase("short") as bar:
            until(bar, 0.05)
    assert "short: 0 s" in capsys.readouterr().err.splitlines()


def test_lines_come_less_often_the_longer_it_takes(monkeypatch):
    now = time.time()
    monkeypatch.setattr(progress, "_last", now)
    bar = progress.Bar(title="surgery", unit="step", total=1000)
    monkeypatch.setattr(time, "time", lambda: now)
    due = []
    for _ in range(3600):
        now += 1
        if bar.due():
            bar.spoken()
            due.append(now - bar.start_t)
    bar.close()
    pauses = [after - before for before, after in itertools.pairwise(due)]
    assert 9 <= due[0] <= 11
    assert sorted(pauses) == pauses and max(pauses) <= 61
    assert len(due) < 100


def test_a_line_fits_80_columns_and_counts_bytes():
    with progress.Bar(title="loading weights", unit="B", total=13.5e9) as bar:
        bar.update(2.7e9)
        bar.set_postfix({f"a number {i}": 1 for i in range(9)}, refresh=False)
        assert bar.line().startswith("loading weights: 2.70GB of 13.5GB, 0 s, ")
        assert bar.line().count("a number") and len(bar.line()) < 80
        assert len(str(bar)) < 80


@pytest.mark.parametrize(
    ("seconds", "text"), [(8.9, "8 s"), (125, "2:05 min"), (3725, "1:02:05 h")]
)
def test_times_are_short(seconds, text):
    assert progress._time(seconds) == text


def test_what_failed_is_not_said_to_have_taken_its_time(quick, capsys):
    with pytest.raises(KeyError), progress.phase("loading") as bar:
        until(bar, 0.2)
        raise KeyError
    assert "in all" not in capsys.readouterr().err


def test_other_processes_than_the_lead_say_nothing(quick, monkeypatch, capsys):
    monkeypatch.setattr(progress, "is_lead", lambda: False)
    with progress.screen(), progress.phase("loading") as bar:
        print("a line")
        progress.show_warning("no", UserWarning, "file.py", 1)
        time.sleep(0.2)
        assert bar.disable
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("place", "lead"), [("0", True), ("3", False), (None, True)])
def test_before_jax_the_lead_is_guessed(monkeypatch, place, lead):
    monkeypatch.delitem(sys.modules, "jax", raising=False)
    for name in progress.PROCESS:
        monkeypatch.delenv(name, raising=False)
    if place:
        monkeypatch.setenv("JAX_PROCESS_ID", place)
    assert progress.is_lead() == lead


def test_printed_lines_are_whole_and_the_last_one_is_not_lost(capsys):
    with progress.screen():
        print("one", end="")
        assert not capsys.readouterr().out
        print(" line\nand", end="")
        assert capsys.readouterr().out == "one line\n"
    assert capsys.readouterr().out == "and"


def test_the_thread_ends_with_what_it_looks_after():
    before = threading.active_count()
    with progress.phase("a"), progress.phase("b"):
        assert threading.active_count() == before + 1
    deadline = time.monotonic() + 10
    while threading.active_count() > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


SAYS = """
import time, warnings
from jax_surgery.parallel import progress
progress.LONG, progress.SHORT = 0.4, 0.1
warnings.showwarning = progress.show_warning
warnings.formatwarning = lambda message, *_: f"warning: {message}\\n"
with progress.screen(), progress.phase("the whole"):
    bar = progress.Bar(title="surgery", unit="step", total=3, keep=True)
    with bar:
        for _ in range(3):
            bar.update(1)
            bar.set_postfix(dict.fromkeys("abcdefghi", "12345"), refresh=False)
            time.sleep(0.3)
        print("a printed line")
        warnings.warn("a warning")
        time.sleep(0.3)
"""


def on_a_terminal(code, columns=80, **environment) -> str:
    """What a program writes to a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )
    os.close(theirs)
    parts = []
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # so a terminal ends on Linux
            part = b""
        if not part:
            break
        parts.append(part)
    assert process.wait(60) == 0
    os.close(ours)
    return b"".join(parts).decode()


def on_screen(text: str) -> list[str]:
    """The lines that a terminal shows in the end, of bars that move up and back."""
    rows, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[A|\r|\n|[^\x1b\r\n]+", text):
        if part == "\x1b[A":
            row -= 1
        elif part == "\r":
            column = 0
        elif part == "\n":
            row += 1
            rows += [""] * (row + 1 - len(rows))
        else:
            line = rows[row].ljust(column)
            rows[row] = line[:column] + part + line[column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in rows if line.strip()]


def test_a_terminal_shows_bars_that_move_and_keeps_what_took_long():
    text = on_a_terminal(SAYS, TERM="xterm")
    assert "\r" in text and "33%" in text
    assert not re.findall(r"\x1b\[[\d;]*m", text)  # nothing is coloured
    printed, warned, bar, whole = on_screen(text)
    assert (printed, warned) == ("a printed line", "warning: a warning")
    assert bar.startswith("surgery: 100%|") and "3/3 [00:01" in bar
    assert whole == "the whole: 1 s"
    lines = re.split(r"[\r\n]|\x1b\[A", text)
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(("columns", "term"), [(80, "dumb"), (0, "xterm")])
def test_a_terminal_that_knows_little_gets_plain_lines(columns, term):
    text = on_a_terminal(SAYS, columns, TERM=term)
    lines = text.replace("\r\n", "\n").splitlines()  # the terminal's own
    assert "\r" not in text.replace("\r\n", "") and "\x1b" not in text
    assert "a printed line" in lines and "warning: a warning" in lines
    assert lines[-1] == "the whole: 1 s in all"
    assert any(line.startswith("surgery: step 3 of 3, 1 s in all") for line in lines)


def test_warnings_are_those_of_the_program(monkeypatch, capsys):
    monkeypatch.setattr(warnings, "showwarning", progress.show_warning)
    warnings.showwarning(UserWarning("text"), UserWarning, "file.py", 3)
    assert "text" in capsys.readouterr().err
