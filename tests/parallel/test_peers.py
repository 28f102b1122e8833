# SPDX-License-Identifier: Apache-2.0
"""One of two processes ends: the other one ends with one line and a code, in time."""

import os
import signal
import subprocess
import sys
import time

import on_devices
import pytest

from jax_surgery.parallel import peers, signals
from jax_surgery.storage.errors import StorageAway, StorageError

# Two processes that compute together, by all that a run uses of `parallel`.
PAIR = """
import sys, time
from jax_surgery.parallel import distributed, signals
with signals.handling():
    signals.set_last_words("stopped at once. Go on with: THE COMMAND")
    distributed.initialise()
    import numpy as np
    try:
        for number in range(10**6):
            assert distributed.all_agree(True)
            if not number:
                print("ready", flush=True)
            time.sleep(0.1)
            if distributed.jax.process_index() == {failing} and number == 5:
                raise ValueError("--config.x=1 is wrong; use 2.")
    except KeyboardInterrupt:
        signals.end(signals.last_words(), signals.STOPPED)
    except Exception as error:
        distributed.after_error(error)
        signals.end(f"error: {{error}}", 2)
"""


# Two processes, to one of which a signal comes after the last step of a loop.
LATE = """
import os, signal
from jax_surgery.parallel import distributed, preemption, signals
with signals.handling():
    distributed.initialise()
    from jax_surgery.runs import start
    from jax_surgery.train.loop import Interrupted
    try:
        distributed.wait("the start")
        print("ready", flush=True)
        with preemption.listening():
            for _ in range(3):
                preemption.reached()
            if distributed.jax.process_index() == {failing}:
                os.kill(os.getpid(), signal.SIGTERM)
        distributed.wait("the export")
    except KeyboardInterrupt:
        start.end(Interrupted("stopped at once. Go on with: THE COMMAND"))
    except Exception as error:
        start.end(error)
"""


def pair(failing: int = -1, program: str = PAIR) -> list[subprocess.Popen]:
    """Two processes at work."""
    code = ("-c", program.format(failing=failing))
    found = on_devices.start_pair((), 1, program=code)
    for process in found:
        while (line := process.stdout.readline()) != "ready\n":
            assert line, process.poll()
    return found


def told(process: subprocess.Popen, code: int, within: float) -> str:
    """What the process printed; it ends in time, with that exit code."""
    began = time.monotonic()
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == code, printed
    assert time.monotonic() - began < within
    assert "Traceback" not in printed and "*** Check failure" not in printed
    return "".join(x for x in printed.splitlines(True) if "[Gloo]" not in x).strip()


@pytest.mark.slow
def test_processes_that_end_well_end_with_0():
    """Also while a thread of theirs listens to the others."""
    for _ in range(3):
        code = ("-c", PAIR.replace("10**6", "20").format(failing=-1))
        printed = on_devices.ended(on_devices.start_pair((), 1, program=code))
        assert all("Traceback" not in text for text in printed)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_stops_the_other_one(killed):
    processes = pair()
    processes[killed].kill()
    said = told(processes[1 - killed], peers.LOST, 60)
    assert said == (
        f"process {killed} ended without a word (killed, or the machine is gone), so "
        f"process {1 - killed} stops too. Start all 2 again with the same command: "
        "they go on from the last checkpoint."
    )
    processes[killed].communicate()


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
def test_the_other_one_says_why_a_process_failed(failing):
    processes = pair(failing)
    error = "--config.x=1 is wrong; use 2."
    assert told(processes[failing], 2, 30) == f"error: {error}"
    said = told(processes[1 - failing], 2, 30)
    assert said == f"process {failing} ended: {error}"


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_a_signal_outside_of_a_loop_stops_both_at_once(stopped):
    processes = pair()
    processes[stopped].send_signal(signal.SIGTERM)
    said = told(processes[stopped], signals.STOPPED, 30)
    assert "SIGTERM: stopping at once" in said and said.endswith("THE COMMAND")
    said = told(processes[1 - stopped], signals.STOPPED, 30)
    assert said == (
        f"process {stopped} ended: stopped at once. Go on with: THE COMMAND"
    )


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_a_signal_after_the_last_step_stops_both(stopped):
    """The other one would wait for ever in the next collective."""
    processes = pair(stopped, LATE)
    said = told(processes[stopped], signals.STOPPED, 30)
    assert "SIGTERM: stopping after this step" in said and said.endswith("THE COMMAND")
    said = told(processes[1 - stopped], signals.STOPPED, 30)
    assert said == (
        f"process {stopped} ended: stopped at once. Go on with: THE COMMAND"
    )


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def test_errors_of_storage_and_network_are_a_process_own():
    reset = ConnectionResetError(104, "Connection reset by peer")
    away = caused(
        StorageAway("gs://b did not answer (Connection reset by peer)"), reset
    )
    unavailable = RuntimeError("UNAVAILABLE: Error reading gs://b/x: Socket closed")
    save = "the checkpoint of step 5 could not be written"
    for own in (
        *(reset, away, caused(RuntimeError("no data"), away)),
        *(caused(StorageError(save), unavailable), ValueError("--config.x=1 is wrong")),
    ):
        assert not peers._is_broken(own)
    barrier = RuntimeError("DEADLINE_EXCEEDED: Barrier timed out. Id: save:5")
    for of_peers in (
        *(barrier, caused(StorageError(save), barrier), unavailable),
        RuntimeError("FAILED_PRECONDITION: [external/gloo/tcp/pair.cc] Connection"),
        caused(
            ValueError("one of the arrays"), RuntimeError("Connection closed by peer")
        ),
    ):
        assert peers._is_broken(of_peers)


def test_a_lost_peer_is_waited_for_as_long_as_it_can_take_to_be_seen(monkeypatch):
    assert peers.HEARTBEAT_SECONDS < peers.SECONDS_TO_KNOW < 60
    monkeypatch.setattr(peers, "SECONDS_TO_KNOW", 0.5)
    monkeypatch.setattr(peers._peers, "client", object())
    began = time.monotonic()
    peers.after_error(RuntimeError("Connection reset by peer"))
    assert 0.5 <= time.monotonic() - began < 5
    monkeypatch.setattr(peers, "SECONDS_TO_KNOW", 60)
    monkeypatch.setattr(peers, "_others_lack", lambda: False)
    began = time.monotonic()
    peers.after_error(StorageAway("gs://b did not answer (Connection reset by peer)"))
    assert time.monotonic() - began < 5


def test_an_error_is_told_though_the_others_go_on_and_do_not_ask(monkeypatch):
    """JAX says who is alive once all have asked."""

    class Client:
        def get_live_nodes(self, numbers):
            time.sleep(60)

    monkeypatch.setattr(peers, "SECONDS_TO_ANSWER", 0.2)
    monkeypatch.setattr(peers._peers, "client", Client())
    monkeypatch.setattr(peers._peers, "count", 2)
    began = time.monotonic()
    peers.after_error(ValueError("--config.x=1 is wrong"))
    assert time.monotonic() - began < 5


def test_an_abort_of_another_cause_prints_what_it_said(tmp_path):
    """What C++ prints is looked at, and none of it is lost."""
    code = """
        import os
        from jax_surgery.parallel import peers
        peers._Filter().install()
        os.write(2, b"a line\\n")
        os.write(2, b"W1126 20:34:15.242326 18768 coordination_service.cc:1] of a loss\\n")
        os.write(2, b"F1126 20:34:15.242326 18768 array.cc:2] Check failed\\n and why")
        os.abort()
    """
    code = "\n".join(line.strip() for line in code.splitlines())
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(on_devices.ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGABRT
    for words in ("a line\n", "of a loss", "array.cc:2] Check failed\n", " and why"):
        assert words in done.stderr
    assert peers._who(b"anything").startswith("another process ended")
