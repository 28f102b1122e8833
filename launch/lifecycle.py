# SPDX-License-Identifier: Apache-2.0
"""A queued resource from its request to its end; what is not ours is never deleted."""

from __future__ import annotations

import math
import shlex
from typing import Any

from launch import commands
from launch.errors import GcloudError, LaunchError, kind_of
from launch.gcloud import About, Gcloud, backoff, say
from launch.state import Machine, Store

POLL = 30.0  # seconds
# Of a queued resource, see https://cloud.google.com/tpu/docs/queued-resources.
DEAD = ("SUSPENDED", "FAILED", "SUSPENDING")
PATIENCE = 8  # requests in a row that end because the zone has none
ENDLESS = math.inf


def about(machine: Machine) -> About:
    """What a call is about."""
    return About(machine.zone, machine.name)


def look(gcloud: Gcloud, machine: Machine) -> dict[str, Any] | None:
    """The queued resource of a machine's name, whoever made it; None without one."""
    found = gcloud.read(commands.describe(machine), about(machine))
    if gcloud.dry_run:
        return {
            "state": {"state": "ACTIVE"},
            "tpu": {"nodeSpec": [{"node": {"labels": {commands.LABEL: machine.mark}}}]},
        }
    return found


def state_of(found: dict[str, Any] | None) -> str:
    """The state of a queued resource; "" where there is none."""
    return (found or {}).get("state", {}).get("state", "")


def is_ours(found: dict[str, Any], machine: Machine) -> bool:
    """Whether a queued resource has the label that this program gave it."""
    specs = found.get("tpu", {}).get("nodeSpec", [])
    labels = [spec.get("node", {}).get("labels", {}) for spec in specs]
    return bool(labels) and all(
        each.get(commands.LABEL) == machine.mark for each in labels
    )


def demand_ours(found: dict[str, Any], machine: Machine) -> None:
    """Raises where a queued resource was not made by this program for this machine."""
    if not is_ours(found, machine):
        by_hand = shlex.join(["gcloud", *commands.delete(machine)])
        raise LaunchError(
            f"the queued resource {machine.name} in {machine.zone} lacks the label "
            f"{commands.LABEL}={machine.mark} that this program gives to what it makes, "
            f"so somebody else made it; it was left alone. If it is yours: {by_hand}"
        )


def why_failed(found: dict[str, Any] | None) -> str:
    """What a queued resource says of its failure; "" where it says nothing."""
    data = (found or {}).get("state", {}).get("failedData", {})
    return str(data.get("error", {}).get("message", ""))


def request(gcloud: Gcloud, store: Store, machine: Machine) -> None:
    """Asks for the slices. What is there already and ours counts as asked for.

    The machine is noted before the request, so that what a lost answer left behind can
    be found and deleted.

    Raises:
      LaunchError: the request was refused, or another has the name.
    """
    store.save(machine)
    try:
        gcloud.run(commands.create(machine), about(machine))
    except GcloudError as error:
        found = look(gcloud, machine)
        if found is None:
            if not machine.spans:
                store.forget(machine)
            raise
        if not is_ours(found, machine):
            if not machine.spans:
                store.forget(machine)
            raise LaunchError(
                f"there is a queued resource {machine.name} in {machine.zone} that this "
                "program did not make; it was left alone. Choose another name."
            ) from error
        if error.kind.name != "exists":
            raise LaunchError(
                f"{error} The request {machine.name} is left in state "
                f"{state_of(found)}; remove it with 'python -m launch delete "
                f"{machine.name} --yes'."
            ) from error
        say(f"{machine.name} was asked for already; going on with it.")


def remove(gcloud: Gcloud, store: Store, machine: Machine) -> bool:
    """Deletes the queued resource and its slices, if they are ours.

    Returns:
      whether there was anything.

    Raises:
      LaunchError: it is not ours, or is still there.
    """
    found = look(gcloud, machine)
    if found is not None:
        demand_ours(found, machine)
        try:
            gcloud.run(commands.delete(machine), about(machine))
        except GcloudError as error:
            if error.kind.name != "missing":
                raise
    machine.ends()
    store.save(machine)
    return found is not None


def await_slices(
    gcloud: Gcloud, store: Store, machine: Machine, patience: float
) -> None:
    """Waits until the slices are there; asks anew where the zone had none.

    Args:
      patience: requests in a row that may end without slices.

    Raises:
      LaunchError: the request failed for another reason, or is gone.
    """
    before, failures = "", 0
    while True:
        found = look(gcloud, machine)
        state = state_of(found)
        if found is None:
            raise LaunchError(
                f"the queued resource {machine.name} is gone: somebody deleted it. "
                f"'python -m launch resume {machine.name}' makes it anew."
            )
        demand_ours(found, machine)
        if state == "ACTIVE":
            machine.begins()
            store.save(machine)
            return
        if state in DEAD:
            failures += 1
            refuse(machine, why_failed(found), state, failures >= patience)
            seconds = backoff(failures)
            say(f"{machine.name}: {state}. Asking again in {seconds:.0f} s.")
            remove(gcloud, store, machine)
            gcloud.sleep(seconds)
            request(gcloud, store, machine)
            continue
        if state != before:
            say(
                f"{machine.name}: {state or 'no state yet'}. Waiting; Ctrl-C leaves the "
                "request in the queue."
            )
            before = state
        gcloud.sleep(POLL)


def refuse(machine: Machine, why: str, state: str, too_often: bool) -> None:
    """Raises where a request that ended in `state` is not to be repeated.

    Args:
      why: what Google said of it; "" where it said nothing, as of a preempted slice.
      too_often: it was repeated often enough.
    """
    kind = kind_of(why)
    passes = not why or kind.again or kind.name in ("stockout", "preempted")
    if not passes or too_often:
        error = GcloudError(kind, why or state, machine.zone, machine.name)
        raise LaunchError(
            f"the request {machine.name} ended in state {state}: {error} It is still in "
            f"the list; remove it with 'python -m launch delete {machine.name} --yes'."
        )
