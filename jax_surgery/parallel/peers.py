# SPDX-License-Identifier: Apache-2.0
"""What the processes of a run do when one of them ends before the others.

One that ends by itself tells the others why, through JAX's coordination service, and
they end with its words and its exit code. One that was killed, or whose machine is gone,
sends no more heartbeats, or closes its connections: JAX then aborts the others, with
dozens of lines. Here they end with one line and the exit code `LOST`.
"""

import contextlib
import ctypes
import os
import re
import select
import signal
import sys
import threading
import time
import traceback
from typing import Any

from jax_surgery.parallel import signals

LOST = 75  # exit code where another process was lost: start all again (EX_TEMPFAIL)
HEARTBEAT_SECONDS = 40  # without one, after which a process is taken for dead
SECONDS_BETWEEN = 1.0  # looks at what the others tell
SECONDS_TO_HEAR = 3.0  # the others', before the process that serves them ends
# How long this process may take to end with words of its own, which say more.
SECONDS_TO_SPEAK = 5.0
KEY = "jax_surgery/ended"

# The beginning of what JAX's C++ prints, one or more lines, while it gives up.
_RECORD = re.compile(rb"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ ([\w.]+):\d+\] ")
_OF_LOSS = re.compile(rb"coordination_service|preemption_sync|client\.h")
_FATAL = b"JAX distributed service detected fatal errors"
_UNHEALTHY = re.compile(rb"stopped sending heartbeats\):\n((?:\d+\n)+)")
# What a collective raises whose other end is gone: words of nothing but processes, and
# words that storage and the network have too.
_OF_PEERS = re.compile(r"Gloo|coordination|barrier|heartbeat|NCCL", re.IGNORECASE)
_BROKEN = re.compile(
    r"Connection (closed|reset)|Socket closed|UNAVAILABLE|DEADLINE_EXCEEDED|"
    r"Broken pipe|peer",
    re.IGNORECASE,
)
# After that JAX itself knows whether another process is gone.
SECONDS_TO_KNOW = HEARTBEAT_SECONDS + 10
SECONDS_TO_ANSWER = 2.0  # JAX's, which others are alive


class _Peers:
    """What this process knows of the others."""

    client: Any = None
    index, count = 0, 1
    heard: tuple[str, int] | None = None  # words and code of one that has ended
    stderr = 2
    handler: Any = None  # must outlive its registration
    hears: threading.Thread | None = None
    ended = threading.Event()  # this process ends well


_peers = _Peers()


def watch(client: Any, index: int, count: int) -> None:
    """Begins to watch the others, once JAX has joined the processes.

    Args:
      client: of JAX's coordination service.
      index: of this process.
      count: of all.
    """
    _peers.client, _peers.index, _peers.count = client, index, count
    signals.before_exit(_tell)
    _peers.hears = threading.Thread(target=_hear, daemon=True)
    _peers.hears.start()
    with contextlib.suppress(OSError, AttributeError):  # no POSIX, no filter
        _Filter().install()


def finish() -> None:
    """Stops listening to the others, before JAX takes its leave of them.

    A thread that is within JAX's client then would bring the process down.
    """
    _peers.ended.set()
    if _peers.hears is not None:
        _peers.hears.join()


def lost(words: str) -> str:
    """The line about a process that is gone, and what to do."""
    return (
        f"{words}, so process {_peers.index} stops too. Start all {_peers.count} again with the same command: they go on from the last "
        "checkpoint."
    )


def _tell(words: str, code: int) -> None:
    """Tells the others that this process ends."""
    if _peers.heard is not None or _peers.client is None:
        return
    words = words.removeprefix("error: ")
    with contextlib.suppress(Exception):  # they may have been told something else
        _peers.client.key_value_set(KEY, f"{_peers.index} {code} {words}")
    if _peers.index == 0:
        time.sleep(SECONDS_TO_HEAR)


def _hear() -> None:
    """Waits until another process tells that it ends, and then ends this one."""
    client, told = _peers.client, ""
    while not told:
        if _peers.ended.wait(SECONDS_BETWEEN):
            return
        try:
            told = client.key_value_try_get(KEY)
        except Exception as error:  # noqa: BLE001 (of C++, of no type of its own)
            if "NOT_FOUND" not in str(error):
                return  # the service is gone, of which JAX hears too
    index, code, words = told.split(" ", 2)
    if int(index) == _peers.index:
        return
    _peers.heard = f"process {index} ended: {words}", int(code)
    time.sleep(SECONDS_TO_SPEAK)
    signals.leave(*_peers.heard)


def after_error(error: BaseException) -> None:
    """Ends this process with another one's words where an error may be the
    consequence of that one's end; returns where it is this process' own."""
    if _peers.client is None or not (_is_broken(error) or _others_lack()):
        return
    deadline = time.monotonic() + SECONDS_TO_KNOW
    while time.monotonic() < deadline and _peers.heard is None:
        time.sleep(0.2)  # JAX may end the process meanwhile, see `_Filter`
    if _peers.heard is not None:
        signals.leave(*_peers.heard)


def _is_broken(error: BaseException | None) -> bool:
    """Whether an error, or one that it comes of, is of a broken connection to another
    process. Those are JAX's; an OSError is of this one's storage or network, unless it
    speaks of other processes, as of a checkpoint that all were saving."""
    chain = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    text = "\n".join(f"{type(one).__name__}: {one}" for one in chain)
    own = any(isinstance(one, OSError) for one in chain)
    return bool(_OF_PEERS.search(text) or (not own and _BROKEN.search(text)))


def _others_lack() -> bool:
    """Whether JAX has lost sight of another process.

    It answers once all that are alive have asked, so that no answer means that the others
    go on.
    """
    everybody, lack = list(range(_peers.count)), []

    def ask() -> None:
        try:
            found = set(_peers.client.get_live_nodes(everybody))
            lack.append(found != set(everybody))
        except Exception:  # noqa: BLE001 (the service itself is gone)
            lack.append(True)

    asks = threading.Thread(target=ask, daemon=True)
    asks.start()
    asks.join(SECONDS_TO_ANSWER)
    return any(lack)


class _Filter:
    """Reads what C++ prints on stderr, and ends the process where JAX would abort it.

    JAX takes a callback for that, but cannot call one from Python. Python's own stderr
    stays what it was.
    """

    def __init__(self):
        self._read = -1
        self._held: list[bytes] = []  # records about a loss, not printed
        self._lock = threading.Lock()
        self._holds = False
        self._rest = b""

    def install(self) -> None:
        libc = ctypes.CDLL(None)
        _peers.stderr = os.dup(2)
        self._read, write = os.pipe()
        os.set_blocking(self._read, False)
        sys.stderr.flush()
        sys.stderr = os.fdopen(
            os.dup(_peers.stderr), "w", buffering=1, errors="backslashreplace"
        )
        os.dup2(write, 2)
        os.close(write)
        signals.speak_to(_peers.stderr)
        _peers.handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(
            lambda number: self._aborted(libc, number)
        )
        libc.signal(signal.SIGABRT, _peers.handler)
        threading.Thread(target=self._forward, daemon=True).start()

    def _forward(self) -> None:
        while True:
            select.select([self._read], [], [])
            with self._lock:
                if not self._take():
                    return

    def _take(self) -> bool:
        """Prints what has come, but for records about a loss; False at the end."""
        try:
            data = os.read(self._read, 1 << 16)
        except BlockingIOError:
            return True
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if start := _RECORD.match(line):
                self._holds = bool(_OF_LOSS.search(start[1]))
            if self._holds:
                self._held.append(line + b"\n")
            else:
                os.write(_peers.stderr, line + b"\n")
        return bool(data)

    def _aborted(self, libc: Any, number: int) -> None:
        """In the thread that has called abort(), which goes on when this returns."""
        libc.signal(number, 0)
        libc.alarm(10)  # where Python cannot run any more, nobody waits for it
        held = b""
        if self._lock.acquire(timeout=2):
            before = -1
            while before != len(self._held) + len(self._rest):
                before = len(self._held) + len(self._rest)
                self._take()
            held = b"".join(self._held) + self._rest
        if _FATAL not in held:
            os.write(_peers.stderr, held)
            return
        try:
            signals.leave(*(_peers.heard or (lost(_who(held)), LOST)))
        except BaseException:  # noqa: BLE001 (nothing above could print it)
            os.write(_peers.stderr, held + traceback.format_exc().encode())


def _who(held: bytes) -> str:
    """Who was lost, of what JAX has printed about it."""
    if found := _UNHEALTHY.search(held):
        numbers = found[1].decode().split()
        if numbers == [str(_peers.index)]:
            return "the other processes heard nothing of this one for a while"
        several = "es" * (len(numbers) > 1)
        return (
            f"process{several} {', '.join(numbers)} ended without a word (killed, or "
            "the machine is gone)"
        )
    if b"leader task" in held or b"Failed to send RPC" in held:
        return "process 0 ended without a word (killed, or the machine is gone)"
    return "another process ended without a word (killed, or the machine is gone)"
