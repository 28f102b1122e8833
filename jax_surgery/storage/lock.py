# SPDX-License-Identifier: Apache-2.0
"""Keeps a second run out of a workdir while one works there.

On a local disk the kernel holds the lock (flock) and gives it back when the process ends
in whatever way. In a bucket it is an object that the run renews every `RENEW` seconds,
so one that was killed leaves a lock that is stale after `STALE` seconds; times are those
of the server, whose clock is the only one that all hosts share.
"""

import contextlib
import datetime
import json
import os
import pathlib
import socket
import sys
import threading
import time
import uuid
from typing import Any

from etils import epath

from jax_surgery.storage import files
from jax_surgery.storage.errors import StorageError, WorkdirInUse

LOCK = ".lock"
RENEW = 15.0  # seconds
STALE = 60.0  # seconds without renewal after which a lock in a bucket is nobody's
LOST = 75  # exit code of a run whose workdir another run has taken over (EX_TEMPFAIL)


def _started(pid: int) -> str:
    """When a process of this machine started, in the kernel's count; "" if it is gone."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def _machine() -> str:
    """This machine since its last start, and whose processes this one sees there:
    containers of a machine count theirs apart."""
    with contextlib.suppress(OSError):
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def _me() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process": _started(os.getpid()),
        "machine": _machine(),
        "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _in_use(folder: epath.Path, text: bytes) -> WorkdirInUse:
    """The error for a workdir whose lock holds that text."""
    try:
        holder = json.loads(text)
        who = f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    except (ValueError, TypeError, KeyError):
        who = "another process"
    return WorkdirInUse(
        f"--workdir={folder} is in use by {who}. Wait until that run has ended, stop "
        "it, or give another --workdir."
    )


class Lock:
    """The lock of a workdir; see the module. `release` it, or end the process."""

    def __init__(self, folder: epath.Path):
        self.folder, self._file = folder, folder / LOCK
        self._descriptor: int | None = None
        self._generation = 0
        self._card = _me() | {"run": uuid.uuid4().hex}
        self._renewed = 0
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Takes the lock; a local folder must exist.

        Raises:
          WorkdirInUse: another run has it.
        """
        if files.is_remote(self.folder):
            self._acquire_remote()
        else:
            self._acquire_local()

    def release(self) -> None:
        """Gives the lock back; nothing of it is left."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                self._file.unlink(missing_ok=True)  # while it is still held
            os.close(self._descriptor)
            self._descriptor = None
        if self._thread is not None:
            self._end.set()
            self._thread.join()
            self._thread = None
            _bucket(self._file).remove_if(str(self._file), self._generation)

    def _acquire_local(self) -> None:
        try:
            import fcntl
        except ImportError:  # not on Windows, where runs are not locked
            return
        while True:
            descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                text = os.read(descriptor, 4096)
                os.close(descriptor)
                raise _in_use(self.folder, text) from None
            except OSError as error:
                os.close(descriptor)
                print(f"warning: {self.folder} cannot be locked ({error}).")
                return
            # Whoever had it may have removed the file before it was locked here.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(self._file)):
                    break
            os.close(descriptor)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, self._text())
        self._descriptor = descriptor

    def _text(self) -> bytes:
        return json.dumps(self._card | {"renewed": self._renewed}).encode()

    def _acquire_remote(self) -> None:
        bucket, path = _bucket(self._file), str(self._file)
        seen, began = None, time.monotonic()
        while True:
            there = bucket.version(path)
            if there and seen not in (None, there.generation):
                raise _in_use(self.folder, there.data)  # it was renewed
            if there is None or there.age > STALE or self._is_dead(there.data):
                generation = there.generation if there else 0
                with contextlib.suppress(FileExistsError):
                    self._generation = bucket.put_if(path, self._text(), generation)
                    break
                seen = None  # a third run was quicker
                continue
            if seen is None:
                seen = there.generation
                print(
                    f"--workdir={self.folder} is locked by a run that was alive "
                    f"{max(0, there.age):.0f} s ago; looking for up to {STALE:.0f} s "
                    "whether it still is",
                    file=sys.stderr,
                )
            elif time.monotonic() - began > 2 * STALE:
                raise _in_use(self.folder, there.data)
            time.sleep(min(5.0, RENEW / 3))
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()

    def _is_dead(self, text: bytes) -> bool:
        """Whether the lock is of a process of this machine that is gone."""
        try:
            holder = json.loads(text)
            if holder["machine"] != self._card["machine"]:
                return False
            return _started(holder["pid"]) != holder["process"]
        except (ValueError, TypeError, KeyError):
            return False

    def _renew(self) -> None:
        """Renews the lock until `release`; ends the process where it was taken over.

        The process must not write another byte then, and a thread cannot stop the
        others in another way.
        """
        bucket, path = _bucket(self._file), str(self._file)
        told = None  # the kind of error that is said already
        while not self._end.wait(RENEW):
            self._renewed += 1
            try:
                self._generation = bucket.put_if(path, self._text(), self._generation)
                told = None
            except FileExistsError:
                print(
                    f"\nstopped: another run has taken --workdir={self.folder} over "
                    f"while this one could not renew its lock for {STALE:.0f} s; "
                    "nothing more is written.",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(LOST)
            except Exception as error:  # noqa: BLE001 (else this thread would end)
                words = str(error)
                if not isinstance(error, StorageError):
                    words = (
                        f"the lock of --workdir={self.folder} could not be renewed "
                        f"({_reason(error)}); it is tried again every {RENEW:.0f} s"
                    )
                if type(error) is not told:
                    print(f"\n{words}", file=sys.stderr, flush=True)
                told = type(error)


def _bucket(file: epath.Path) -> Any:
    from jax_surgery.storage import bucket

    return bucket.of(file)


def _reason(error: Exception) -> str:
    from jax_surgery.storage import bucket

    return bucket.reason(error)
