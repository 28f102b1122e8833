# SPDX-License-Identifier: Apache-2.0
"""Watches a run and brings it to its end: what is lost is made anew and goes on.

The run's exit codes are those of docs/reliability.md: 0 is done; 1 and 2 would come
again; with 75, 130 and those of a killed process the same command goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from launch import commands, lifecycle, work
from launch.errors import GcloudError, LaunchError
from launch.gcloud import Gcloud, backoff, say
from launch.state import Machine, Store

WATCH = 60.0  # seconds between two looks at a run that goes on
# Processes that lost another end within 60 seconds (docs/reliability.md).
GRACE = 3  # looks, after which those that have not ended are ended
UNREACHABLE = 3  # looks that fail, each with its tries
QUICK = 600.0  # seconds; a run that ends sooner made no progress
QUICK_ENDS = 5  # of such runs in a row, which are given up


def verdict(answers: Sequence[int | str]) -> str:
    """What the workers' answers mean together.

    Args:
      answers: see `work.ask`.

    Returns:
      "done", "failed", "going on", "ending" (some have ended, others have not),
      "again" (all have ended and can go on) or "start".
    """
    ended = [answer for answer in answers if isinstance(answer, int)]
    if any(code in (1, 2) for code in ended):
        return "failed"
    if "running" in answers:
        return "ending" if any(ended) or "none" in answers else "going on"
    if "none" in answers or not answers:
        return "start"
    return "again" if any(ended) else "done"


class Watcher:
    """Brings the run of one machine to its end.

    Attributes:
      clock: seconds; tests give another.
    """

    def __init__(
        self,
        gcloud: Gcloud,
        store: Store,
        machine: Machine,
        clock: Callable[[], float] = time.time,
    ):
        self.gcloud = gcloud
        self.store = store
        self.machine = machine
        self.clock = clock
        self.started: float | None = None
        self.quick_ends = 0
        self.unreachable = 0
        self.ending = 0

    def run(self) -> int:
        """Watches until the run has ended.

        Returns:
          its exit code: 0, 1 or 2.

        Raises:
          LaunchError: it cannot be brought to its end.
        """
        if not self.machine.command:
            raise LaunchError(
                f"{self.machine.name} has no run; start one with 'python -m launch run "
                f"{self.machine.name} -- --config=... --workdir=gs://...'."
            )
        while True:
            try:
                code = self.look()
            except GcloudError as error:
                self.lost(error)
            else:
                if code is not None:
                    return code

    def look(self) -> int | None:
        """Does what is needed now; the run's exit code once it has ended for good."""
        found = lifecycle.look(self.gcloud, self.machine)
        state = lifecycle.state_of(found)
        if found is not None:
            lifecycle.demand_ours(found, self.machine)
        if self.gcloud.dry_run:
            return self.rehearse()
        if found is None or state in (*lifecycle.DEAD, "DELETING"):
            self.replace(state or "it is gone")
        elif state != "ACTIVE":
            self.wait()
        if not self.machine.ready:
            work.set_up(self.gcloud, self.store, self.machine)
        answers = work.ask(self.gcloud, self.machine)
        self.unreachable = 0
        return self.act(answers)

    def rehearse(self) -> int:
        """Prints the commands of one preemption."""
        print("# where the slices were taken away:")
        self.replace("taken away")
        work.set_up(self.gcloud, self.store, self.machine)
        work.ask(self.gcloud, self.machine)
        work.start(self.gcloud, self.machine)
        return 0

    def replace(self, why: str) -> None:
        """Deletes the machine's own slices and makes them anew."""
        say(f"{self.machine.name}: {why}. Making it anew.")
        lifecycle.remove(self.gcloud, self.store, self.machine)
        lifecycle.request(self.gcloud, self.store, self.machine)
        self.wait()
        self.unreachable = self.ending = 0

    def wait(self) -> None:
        """Waits until the slices are there, however long that takes."""
        lifecycle.await_slices(self.gcloud, self.store, self.machine, lifecycle.ENDLESS)

    def lost(self, error: GcloudError) -> None:
        """A call failed: waits, or replaces the slices where they are lost for sure.

        Raises:
          GcloudError: it will not pass.
          LaunchError: workers do not answer, and Google does not say why.
        """
        kind = error.kind.name
        gone = kind in ("preempted", "missing")
        if not gone and not error.kind.again:
            raise error
        say(f"{self.machine.name}: {error}")
        if kind in ("ssh", "not ready"):
            self.unreachable += 1
            if self.unreachable >= UNREACHABLE:
                gone = self.is_broken()
                if not gone:
                    raise LaunchError(
                        f"workers of {self.machine.name} do not answer, and Google calls "
                        f"its slices healthy, so nothing was deleted. {error} To have "
                        "them made anew all the same: python -m launch delete "
                        f"{self.machine.name} --yes, then resume."
                    )
        if gone:
            self.replace("its slices are lost")
        else:
            self.gcloud.sleep(WATCH)

    def is_broken(self) -> bool:
        """Whether Google says that a slice is not there or not healthy."""
        for name in self.machine.nodes:
            arguments = commands.node(self.machine, name)
            found = self.gcloud.read(arguments, lifecycle.about(self.machine))
            state, health = (found or {}).get("state"), (found or {}).get("health")
            if state != "READY" or health not in (None, "HEALTHY"):
                say(f"{name} is {state or 'gone'}, {health or 'health unknown'}")
                return True
        return False

    def act(self, answers: Sequence[int | str]) -> int | None:
        """Does what the answers ask for; see `look`."""
        meaning = verdict(answers)
        if meaning == "done":
            return 0
        if meaning == "failed":
            return min(code for code in answers if code in (1, 2))
        if meaning == "going on":
            self.started = self.started or self.clock()
            self.ending = 0
            self.gcloud.sleep(WATCH)
        elif meaning == "ending":
            self.ending += 1
            if self.ending < GRACE:
                self.gcloud.sleep(WATCH)
            else:
                say(f"{self.machine.name}: {list(answers)}: ending what is left of it")
                work.stop(self.gcloud, self.machine)
                self.ending = 0
        else:
            self.start_again(answers)
        return None

    def start_again(self, answers: Sequence[int | str]) -> None:
        """Starts the run with the same command.

        Raises:
          LaunchError: it ended soon after its start too often.
        """
        ends = any(isinstance(answer, int) for answer in answers)
        quick = self.started is not None and self.clock() - self.started < QUICK
        self.quick_ends = self.quick_ends + 1 if ends and quick else 0
        if self.quick_ends >= QUICK_ENDS:
            raise LaunchError(
                f"the run on {self.machine.name} ended {self.quick_ends} times within "
                f"{QUICK / 60:.0f} minutes of its start (codes {list(answers)}), so it is "
                f"not started again. Look: python -m launch logs {self.machine.name}. The "
                "slices are still there and paid for."
            )
        if self.quick_ends:
            self.gcloud.sleep(backoff(self.quick_ends))
        codes = f" (it ended with {list(answers)})" if ends else ""
        say(f"{self.machine.name}: starting the run{codes}")
        work.start(self.gcloud, self.machine)
        self.started = self.clock()
        self.ending = 0
