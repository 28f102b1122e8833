# SPDX-License-Identifier: Apache-2.0
"""Programs in processes of their own, which take turns."""

import multiprocessing
from collections.abc import Callable
from typing import Any


class Process:
    """One program in a process of its own, asked through a pipe."""

    def __init__(self, target: Any, *arguments: Any):
        """Starts `target(connection, *arguments)`."""
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        # A daemon ends with this process, also where that fails.
        process = context.Process(target=target, args=(other, *arguments), daemon=True)
        process.start()
        other.close()  # so that its end is seen here
        self._wait: Callable[[], Any] = process.join

    def send(self, message: Any) -> None:
        self._pipe.send(message)

    def receive(self) -> Any:
        return self._pipe.recv()

    def ask(self, message: Any) -> Any:
        """The answer to a message."""
        self.send(message)
        return self.receive()

    def end(self, message: Any = None) -> Any:
        """What it says at its end, which this waits for."""
        last = self.ask(message)
        self._wait()
        return last
