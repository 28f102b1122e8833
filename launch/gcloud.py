# SPDX-License-Identifier: Apache-2.0
"""Calls of gcloud: repeated where that helps, only printed in a dry run."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from launch.errors import GcloudError, LaunchError, kind_of

TRIES = 6
FIRST_WAIT = 5.0  # seconds, doubled at each try
LONGEST_WAIT = 120.0


def backoff(attempt: int) -> float:
    """Seconds to wait after the attempt of this number, from 0."""
    return min(LONGEST_WAIT, FIRST_WAIT * 2**attempt)


def say(text: str) -> None:
    """Tells the user what goes on; stdout is for what was asked for."""
    print(text, file=sys.stderr, flush=True)


class About(NamedTuple):
    """What a call is about, for advice where it fails."""

    zone: str = ""
    name: str = ""


NOTHING = About()


class Gcloud:
    """Calls gcloud.

    Attributes:
      dry_run: commands are printed and not run.
      sleep: waits for seconds; tests give another.
    """

    def __init__(
        self, dry_run: bool = False, sleep: Callable[[float], None] = time.sleep
    ):
        self.dry_run = dry_run
        self.sleep = sleep

    def run(
        self, arguments: Sequence[str], about: About = NOTHING, *, show: bool = False
    ) -> str:
        """What `gcloud ARGUMENTS` writes to stdout; "" in a dry run.

        Args:
          about: what the call is about.
          show: both streams are shown too, as they come.

        Raises:
          GcloudError: it failed for good, or too often.
          LaunchError: there is no gcloud.
        """
        command = ["gcloud", *arguments]
        if self.dry_run:
            print(shlex.join(command), flush=True)
            return ""
        if shutil.which("gcloud") is None:
            raise LaunchError(
                "gcloud is not installed or not on the PATH; see "
                "https://cloud.google.com/sdk/docs/install, then 'gcloud auth login'."
            )
        for attempt in range(TRIES):
            code, out, said = _call(command, show)
            if code == 0:
                return out
            # A worker's own words may stand on either stream.
            kind = kind_of(said) if said.strip() else kind_of(out)
            if not kind.again or attempt == TRIES - 1:
                break
            seconds = backoff(attempt)
            error = GcloudError(kind, said or out, *about)
            say(f"{error} Trying again in {seconds:.0f} s.")
            self.sleep(seconds)
        raise GcloudError(kind, said or out, *about)

    def read(
        self, arguments: Sequence[str], about: About = NOTHING
    ) -> dict[str, Any] | None:
        """The JSON that a describe call gives; None where there is no such thing."""
        try:
            text = self.run([*arguments, "--format=json"], about)
        except GcloudError as error:
            if error.kind.name == "missing":
                return None
            raise
        try:
            return json.loads(text) if text else {}
        except ValueError as error:
            raise LaunchError(f"gcloud's answer is no JSON: {text[:200]!r}") from error


def _call(command: Sequence[str], show: bool) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command, which are shown as they come."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    kept: list[list[str]] = [[], []]

    def drain(stream, lines: list[str], shown_on) -> None:
        for line in stream:
            lines.append(line)
            if show:
                shown_on.write(line)
                shown_on.flush()

    threads = [
        threading.Thread(target=drain, args=(process.stdout, kept[0], sys.stdout)),
        threading.Thread(target=drain, args=(process.stderr, kept[1], sys.stderr)),
    ]
    for thread in threads:
        thread.start()
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.terminate()
        raise
    finally:
        for thread in threads:
            thread.join()
    return code, "".join(kept[0]), "".join(kept[1])
