# SPDX-License-Identifier: Apache-2.0
"""One function for each subcommand: (flags of launch, flags of the run, gcloud, store)."""

from __future__ import annotations

import argparse
import pathlib
import sys

from launch import commands, estimate, lifecycle, slices, work
from launch import fetch as home
from launch.errors import LaunchError, WrongInput
from launch.gcloud import Gcloud, say
from launch.lifecycle import about
from launch.resume import Watcher
from launch.state import Machine, Store, new_mark

Args = argparse.Namespace


def plan(args: Args, flags: list[str], gcloud: Gcloud, store: Store) -> int:
    """What the config needs on a slice; 1 where it does not fit."""
    chosen = slices.find(args.slice)
    fits = estimate.plan(
        flags, chosen, args.num_slices, args.plan_model, fast=args.fast
    )
    return 0 if fits else 1


def _project(args: Args, gcloud: Gcloud) -> str:
    """The project to use from now on, whatever gcloud's default becomes."""
    if args.project or gcloud.dry_run:
        return args.project
    found = gcloud.run(["config", "get-value", "project", "--quiet"]).strip()
    if not found or found == "(unset)":
        raise WrongInput(
            "no project: give --project=PROJECT, or 'gcloud config set project PROJECT'."
        )
    return found


def _new(args: Args, gcloud: Gcloud, store: Store) -> Machine:
    """The machine that the flags describe; nothing is made yet."""
    if not args.slice or not args.zone:
        raise WrongInput(
            f"nothing of the name {args.name} was made from here; to make it give --slice "
            "and --zone, as in --slice=v5e:4x4 --zone=us-west4-a."
        )
    chosen = slices.find(args.slice)
    if args.num_slices < 1:
        raise WrongInput(f"--num-slices={args.num_slices} must be at least 1.")
    return Machine(
        name=args.name,
        zone=args.zone,
        slice=chosen.name,
        project=_project(args, gcloud),
        num_slices=args.num_slices,
        spot=args.spot,
        runtime=args.runtime or chosen.generation.runtime,
        mark=new_mark(),
        hf_token=args.hf_token or "",
    )


def _agree(question: str, yes: bool) -> None:
    """Returns where the user agrees; else raises."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise WrongInput(f"{question} Nothing was done: say --yes.")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise LaunchError("nothing was done.")


def _make(
    args: Args, flags: list[str], gcloud: Gcloud, store: Store, machine: Machine
) -> None:
    """Says what slices cost and what the config needs, asks, and makes them."""
    say(
        f"{machine.name}: {machine.num_slices} x {machine.slice} "
        f"({machine.shape.accelerator_type}): {machine.chips} chips, {machine.workers} "
        f"worker(s). "
        + slices.dollars(machine.shape, machine.num_slices, machine.zone, machine.spot)
    )
    if not (
        args.skip_plan
        or gcloud.dry_run
        or estimate.plan(flags, machine.shape, machine.num_slices, args.plan_model)
    ):
        raise LaunchError(
            f"the config does not fit on {machine.slice}, so nothing was made. Take what "
            "the plan advises, or say --skip-plan."
        )
    if not gcloud.dry_run:
        _agree(f"Make {machine.name}?", args.yes)
    lifecycle.request(gcloud, store, machine)
    lifecycle.await_slices(gcloud, store, machine, lifecycle.PATIENCE)


def _same(args: Args, machine: Machine) -> None:
    """Raises where flags ask for other slices than those that have the name."""
    wanted = [
        args.slice and slices.find(args.slice).name != machine.slice,
        args.zone and args.zone != machine.zone,
        args.project and args.project != machine.project,
        args.num_slices != 1 and args.num_slices != machine.num_slices,
        args.spot and not machine.spot,
    ]
    if any(wanted):
        raise WrongInput(
            f"{machine.name} is {machine.num_slices} x {machine.slice} in "
            f"{machine.zone}, {'spot' if machine.spot else 'on demand'}; leave out the "
            "flags that say otherwise, or choose another name."
        )


def _there(args: Args, flags: list[str], gcloud: Gcloud, store: Store) -> Machine:
    """The slices of a name, made where they are not there, and waited for."""
    machine = store.find(args.name)
    if machine is None:
        machine = _new(args, gcloud, store)
        _make(args, flags, gcloud, store, machine)
        return machine
    _same(args, machine)
    if lifecycle.look(gcloud, machine) is None:
        machine.ends()
        _make(args, flags, gcloud, store, machine)
    else:
        say(f"{args.name} was asked for already, as {machine.slice} in {machine.zone}.")
        lifecycle.await_slices(gcloud, store, machine, lifecycle.PATIENCE)
    return machine


def create(args: Args, flags: list[str], gcloud: Gcloud, store: Store) -> None:
    """Makes slices, or waits for those that were asked for."""
    machine = _there(args, flags, gcloud, store)
    if args.hf_token:
        machine.hf_token = args.hf_token
        store.save(machine)
    _tell(gcloud, f"{args.name} is there. Next: python -m launch setup {args.name}")


def _tell(gcloud: Gcloud, text: str) -> None:
    """Says what was done, which in a dry run is nothing."""
    if not gcloud.dry_run:
        say(text)


def _get(name: str, gcloud: Gcloud, store: Store) -> Machine:
    """A machine that is there and ours.

    Raises:
      LaunchError: it is not there, not ready, or not ours.
    """
    machine = store.get(name)
    found = lifecycle.look(gcloud, machine)
    state = lifecycle.state_of(found)
    if found is None or state != "ACTIVE":
        raise LaunchError(
            f"{name} is {state or 'gone'}: 'python -m launch resume {name}' waits for it, "
            "or makes it anew where it was taken away."
        )
    lifecycle.demand_ours(found, machine)
    return machine


def setup(args: Args, flags: list[str], gcloud: Gcloud, store: Store) -> None:
    """Copies the checkout and installs it."""
    work.set_up(gcloud, store, _get(args.name, gcloud, store))
    _tell(
        gcloud,
        f"{args.name} is set up. Next: python -m launch run {args.name} -- --config=...",
    )


def run(args: Args, flags: list[str], gcloud: Gcloud, store: Store) -> None:
    """Starts a run; makes and sets up what is not there."""
    known = store.find(args.name)
    if flags or not (known and known.command):
        estimate.config_of(flags)  # before anything is asked of Google
    planned = known or _new(args, gcloud, store)
    command = flags or planned.command
    home.demand_workdir(command, planned.workers, planned.spot)
    machine = _there(args, command, gcloud, store)
    if args.hf_token and args.hf_token != machine.hf_token:
        machine.hf_token, machine.ready = args.hf_token, False
    if not machine.ready:
        work.set_up(gcloud, store, machine)
    if not machine.command or machine.command == command:
        # Before the start, so that a start that fails on one worker can be resumed.
        machine.command = command
        store.save(machine)
    work.start(gcloud, machine, command)
    machine.command = command
    store.save(machine)
    _tell(
        gcloud,
        f"the run goes on without this terminal. See it: python -m launch logs "
        f"{args.name} --follow. Bring it to its end: python -m launch resume {args.name}",
    )


def logs(args: Args, flags: list[str], gcloud: Gcloud, store: Store) -> None:
    """Shows the end of a worker's log."""
    machine = _get(args.name, gcloud, store)
    if not 0 <= args.slice_index < machine.num_slices:
        raise WrongInput(
            f"--slice-index={args.slice_index}: it has {machine.num_slices}."
        )
    if args.follow and args.worker == "all":
        raise WrongInput("--follow shows one worker: give --worker=0.")
    follow = " -F" if args.follow else ""
    command = f"tail -n {args.lines}{follow} jax_surgery_run/log"
    node = machine.nodes[args.slice_index]
    ssh = commands.ssh(machine, node, command, worker=args.worker)
    gcloud.run(ssh, about(machine), show=True)


def resume(args: Args, flags: list[str], gcloud: Gcloud, store: Store) -> int:
    """Watches a run until it has ended; its exit code."""
    machine = store.get(args.name)
    workdir = home.workdir_of(machine.command)
    if args.delete and not workdir.startswith("gs://"):
        raise WrongInput(f"--delete would lose the results in {workdir}, on the slice.")
    code = Watcher(gcloud, store, machine).run()
    if code:
        raise LaunchError(
            f"the run on {args.name} ended with code {code} "
            f"({'what was given is wrong' if code == 2 else 'it failed on its way'}), and "
            f"would again. Why: python -m launch logs {args.name}. The slices are still "
            f"paid for: python -m launch delete {args.name}"
        )
    _tell(
        gcloud,
        f"the run on {args.name} is done. Copy it home: python -m launch fetch {args.name}",
    )
    if args.delete:
        _remove(gcloud, store, machine)
    else:
        _tell(
            gcloud,
            f"The slices are still paid for: python -m launch delete {args.name}",
        )
    return 0


def fetch(args: Args, flags: list[str], gcloud: Gcloud, store: Store) -> None:
    """Copies results home."""
    machine = store.get(args.name)
    target = args.to or pathlib.Path("runs") / args.name
    home.fetch(gcloud, machine, target, args.all)


def _remove(gcloud: Gcloud, store: Store, machine: Machine) -> None:
    was_there = lifecycle.remove(gcloud, store, machine)
    _tell(
        gcloud, f"{machine.name} {'is deleted' if was_there else 'was gone already'}."
    )


def delete(args: Args, flags: list[str], gcloud: Gcloud, store: Store) -> None:
    """Deletes slices. Their run stays known, so that it can be fetched and resumed."""
    machine = store.get(args.name)
    if not gcloud.dry_run:
        _agree(
            f"Delete {machine.num_slices} x {machine.slice} {machine.name} in "
            f"{machine.zone}, with its disks?",
            args.yes,
        )
    _remove(gcloud, store, machine)


def cost(args: Args, flags: list[str], gcloud: Gcloud, store: Store) -> None:
    """Prices of a slice, or what machines have cost."""
    if args.slice:
        if not args.zone:
            raise WrongInput("--slice needs a --zone: prices differ.")
        chosen = slices.find(args.slice)
        print(slices.dollars(chosen, args.num_slices, args.zone, args.spot))
        price = chosen.price(args.zone, args.spot)
        if price is not None and args.hours != 1:
            print(f"{args.hours:g} hours: ${price * args.num_slices * args.hours:.2f}")
        return
    machines = [store.get(args.name)] if args.name else store.all()
    for machine in machines:
        price = machine.shape.price(machine.zone, machine.spot)
        hours = machine.hours()
        there = bool(machine.spans) and machine.spans[-1][1] is None
        spent = (
            "price unknown" if price is None else f"about ${_spent(machine, price):.2f}"
        )
        print(
            f"{machine.name}: {machine.num_slices} x {machine.slice} in {machine.zone}, "
            f"{'spot' if machine.spot else 'on demand'}, "
            f"{'there' if there else 'not there'}, {hours:.1f} hours, {spent}"
        )
    if not machines:
        print("nothing was made from here")
    say(
        "Hours are those between two looks from here; what counts is Google's bill: "
        "https://console.cloud.google.com/billing"
    )


def _spent(machine: Machine, price: float) -> float:
    return price * machine.num_slices * machine.hours()
