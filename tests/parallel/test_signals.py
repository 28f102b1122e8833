# SPDX-License-Identifier: Apache-2.0
"""Signals are answered at once and never lost, whatever the main thread computes."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from jax_surgery.parallel import signals

ROOT = pathlib.Path(__file__).parents[2]
SECONDS_TO_END = 0.5  # of these programs
# What Python cannot interrupt, as XLA's compiler: a quarter of a minute or longer.
COMPUTES = "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**8)"


def started(code: str, *before: str) -> subprocess.Popen:
    """A program that handles signals as main does, and has printed "ready"."""
    body = textwrap.indent(textwrap.dedent(code), "        ")
    head = (
        "from jax_surgery.parallel import signals\nimport hashlib, os, signal, time\n"
    )
    if not before:  # The tests themselves may run under nohup.
        head += "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
    head += f"signals.SECONDS_TO_END = {SECONDS_TO_END}\n"
    head += "signals.set_last_words('Go on with: THE COMMAND')\n"
    head += f"with signals.handling():\n    try:\n{body}\n"
    head += "    except KeyboardInterrupt:\n"
    head += "        signals.end(signals.last_words(), signals.STOPPED)\n"
    process = subprocess.Popen(
        [*before, sys.executable, "-c", head],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n", process.communicate()[1]
    return process


def read_until(process: subprocess.Popen, words: str) -> float:
    """Seconds until a line on stderr has the words."""
    began = time.monotonic()
    while words not in (line := process.stderr.readline()):
        assert line, "the process has ended"
    return time.monotonic() - began


def ended(process: subprocess.Popen, code: int = signals.STOPPED) -> tuple[str, float]:
    """What it printed on stderr, and the seconds until it ended."""
    began = time.monotonic()
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == code, errors
    return errors, time.monotonic() - began


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_at_once_though_the_main_thread_computes(number):
    process = started(f"print('ready', flush=True)\n{COMPUTES}")
    time.sleep(0.2)
    process.send_signal(number)
    assert read_until(process, f"{number.name}: stopping at once") < 2
    errors, seconds = ended(process)
    assert errors.count("Go on with: THE COMMAND") == 1
    assert 0.3 < seconds < 3
    assert "Traceback" not in errors


def test_the_first_of_two_is_answered_at_once_and_the_second_ends():
    process = started(f"""
        with signals.listening("this batch, whose sums are saved"):
            print("ready", flush=True)
            {COMPUTES}
    """)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    words = "SIGINT: stopping after this batch, whose sums are saved; once more stops"
    assert read_until(process, words) < 2
    process.send_signal(signal.SIGINT)
    errors, seconds = ended(process)
    assert seconds < 2 and errors.count("Go on with: THE COMMAND") == 1


def test_a_signal_that_a_finaliser_swallows_is_not_lost():
    process = started("""
        class Library:
            def __del__(self):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.1)
        print("ready", flush=True)
        Library()
        print("swallowed", flush=True)
        time.sleep(60)
    """)
    errors, seconds = ended(process)
    assert 0.3 < seconds < 3
    assert "Exception ignored in" in errors and "KeyboardInterrupt" in errors
    assert "SIGINT: stopping at once" in errors
    assert errors.count("Go on with: THE COMMAND") == 1


def test_what_the_main_thread_does_about_it_comes_first():
    process = started("""
        try:
            print("ready", flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            signals.end("the main thread's words", 7)
    """)
    process.send_signal(signal.SIGTERM)
    errors, seconds = ended(process, 7)
    assert "the main thread's words" in errors and "THE COMMAND" not in errors
    assert seconds < 2


def test_a_run_under_nohup_goes_on_when_the_terminal_is_gone():
    code = "print('ready', flush=True)\ntime.sleep(0.5)\nprint('went on')"
    process = started(code, "sh", "-c", 'trap "" HUP; exec "$@"', "sh")
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=60)[0] == "went on\n"
    assert process.returncode == 0


def test_a_signal_after_the_last_point_is_raised_at_the_end(capfd):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    outer = signals.listening("this step, which is saved")
    with pytest.raises(KeyboardInterrupt), outer:
        with signals.listening("this batch"):
            os.kill(os.getpid(), signal.SIGTERM)
            assert signals.asked()
        assert signals.asked() and not signals.ending()
    assert signals.ending()  # others of the run do not know, and are told
    assert "SIGTERM: stopping after this batch" in capfd.readouterr().err
    assert not signals.asked()
    assert handlers == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with signals.listening("this step"):  # begins anew
        assert not signals.asked() and not signals.ending()
