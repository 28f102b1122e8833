# SPDX-License-Identifier: Apache-2.0
"""What this program has made: one JSON file for each name, on this machine."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import secrets
import time

from launch import slices
from launch.errors import LaunchError, WrongInput


def folder() -> pathlib.Path:
    """Where the files lie, unless --state names another folder."""
    base = os.environ.get("XDG_STATE_HOME") or pathlib.Path.home() / ".local" / "state"
    return pathlib.Path(base) / "jax_surgery" / "launch"


@dataclasses.dataclass
class Machine:
    """Slices of one queued resource.

    Attributes:
      project: of Google Cloud; "" is gcloud's own default.
      slice: its name, such as v5e:4x4.
      mark: a label's value that only this program's resource of this name has; what
        lacks it is never deleted.
      ready: it is set up since it was last made.
      command: the run's flags, to be repeated as they are.
      hf_token: a file with a token of the Hugging Face hub that is copied too, or "".
      spans: seconds since 1970 when it was seen to begin and to end to be there; the
        last end is None while it is.
    """

    name: str
    zone: str
    slice: str
    project: str = ""
    num_slices: int = 1
    spot: bool = False
    runtime: str = ""
    mark: str = ""
    ready: bool = False
    command: list[str] = dataclasses.field(default_factory=list)
    hf_token: str = ""
    spans: list[list[float | None]] = dataclasses.field(default_factory=list)

    @property
    def shape(self) -> slices.Slice:
        return slices.find(self.slice)

    @property
    def nodes(self) -> list[str]:
        """Names of its slices, as `tpu-vm ssh` takes them."""
        if self.num_slices == 1:
            return [self.name]
        return [f"{self.name}-{index}" for index in range(self.num_slices)]

    @property
    def workers(self) -> int:
        """Virtual machines of all slices."""
        return self.shape.workers * self.num_slices

    @property
    def chips(self) -> int:
        return self.shape.chips * self.num_slices

    def begins(self) -> None:
        """It is there, and paid for."""
        if not self.spans or self.spans[-1][1] is not None:
            self.spans.append([time.time(), None])

    def ends(self) -> None:
        """It is not there any more, nor what was set up on it."""
        self.ready = False
        if self.spans and self.spans[-1][1] is None:
            self.spans[-1][1] = time.time()

    def hours(self) -> float:
        """How long it was seen to be there."""
        now = time.time()
        seconds = sum((now if b is None else b) - (a or 0.0) for a, b in self.spans)
        return seconds / 3600


def new_mark() -> str:
    """A label's value that nothing else has."""
    return secrets.token_hex(8)


class Store:
    """Reads and writes machines; writes nothing in a dry run."""

    def __init__(self, where: pathlib.Path, dry_run: bool = False):
        self.where = where
        self.dry_run = dry_run

    def _path(self, name: str) -> pathlib.Path:
        if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", name):
            raise WrongInput(
                f"the name {name!r} must have 1 to 40 small letters, digits and hyphens, "
                "begin with a letter and not end with a hyphen."
            )
        return self.where / f"{name}.json"

    def find(self, name: str) -> Machine | None:
        """The machine of a name; None where this program has made none."""
        path = self._path(name)
        if not path.exists():
            return None
        try:
            return Machine(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise LaunchError(
                f"{path} is damaged ({error}). Look with 'gcloud compute tpus "
                f"queued-resources list' whether {name} is there, and delete both by hand."
            ) from error

    def get(self, name: str) -> Machine:
        """The machine of a name.

        Raises:
          WrongInput: this program has made none.
        """
        machine = self.find(name)
        if machine is None:
            have = ", ".join(m.name for m in self.all()) or "none"
            raise WrongInput(
                f"nothing of the name {name} was made from here (there is: {have}); make "
                f"it with 'python -m launch create {name} --slice=v5e:4x4 --zone=ZONE'."
            )
        return machine

    def all(self) -> list[Machine]:
        """Every machine, by name."""
        paths = sorted(self.where.glob("*.json")) if self.where.is_dir() else []
        found = [self.find(path.stem) for path in paths]
        return [machine for machine in found if machine]

    def save(self, machine: Machine) -> None:
        if self.dry_run:
            return
        self.where.mkdir(parents=True, exist_ok=True)
        path = self._path(machine.name)
        half = path.with_suffix(".half")
        half.write_text(json.dumps(dataclasses.asdict(machine), indent=2) + "\n")
        os.replace(half, path)

    def forget(self, machine: Machine) -> None:
        if not self.dry_run:
            self._path(machine.name).unlink(missing_ok=True)
