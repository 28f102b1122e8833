# SPDX-License-Identifier: Apache-2.0
"""The command line: `python -m launch SUBCOMMAND NAME ... -- FLAGS OF THE RUN`."""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import time
from collections.abc import Callable, Sequence

from launch import actions, state
from launch.errors import LaunchError
from launch.gcloud import Gcloud

STOPPED = 130


def _token(text: str) -> str:
    """The file of --hf-token; where it is given without a value, that of `hf auth login`."""
    home = os.environ.get("HF_HOME") or pathlib.Path.home() / ".cache" / "huggingface"
    return str(
        pathlib.Path(text).expanduser() if text else pathlib.Path(home) / "token"
    )


def _slices(parser: argparse.ArgumentParser, required: bool) -> None:
    """Flags that say which slices; a machine that is there has its own."""
    add = parser.add_argument
    add(
        "--slice",
        required=required,
        help="v5e:4x4, or its accelerator type v5litepod-16",
    )
    add("--zone", required=required, help="such as us-west4-a")
    add(
        "--num-slices",
        type=int,
        default=1,
        help="equal slices, one copy of the model each",
    )
    add(
        "--spot", action="store_true", help="cheaper, and may be taken away at any time"
    )


def _made(parser: argparse.ArgumentParser, required: bool) -> None:
    """Flags of what is made: `create`, and `run` where it makes one."""
    _slices(parser, required)
    add = parser.add_argument
    add("--project", default="", help="of Google Cloud; default: gcloud's own")
    add("--runtime", default="", help="software of the TPU VM; default: by generation")
    add(
        "--hf-token",
        nargs="?",
        const="",
        type=_token,
        metavar="FILE",
        help="copy this token of the Hugging Face hub to the workers, for gated models; "
        "without FILE that of 'hf auth login'",
    )
    _planned(parser)
    add("--skip-plan", action="store_true", help="do not ask what the config needs")
    add("--yes", action="store_true", help="make it without being asked")


def _planned(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--plan-model",
        default="",
        metavar="NAME",
        help="plan for this model of jax_surgery/models/published.py; default: the run's",
    )


def _parser() -> argparse.ArgumentParser:
    """All subcommands; each has its function of `actions` as `action`."""
    parser = argparse.ArgumentParser(
        prog="python -m launch",
        description="Starts a run on TPU slices, brings it to its end, copies it home.",
        epilog="What follows -- are flags of the run, kept as they are: "
        "-- --config=configs/surgery.py --config.model=... --workdir=gs://BUCKET/RUN",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print gcloud's commands only"
    )
    parser.add_argument(
        "--state", type=pathlib.Path, help=f"notes of what was made; {state.folder()}"
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="SUBCOMMAND"
    )

    def command(name: str, action: Callable, text: str, named: bool = True):
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(action=action)
        # After the subcommand too, where people write it.
        added.add_argument("--dry-run", action="store_true", default=argparse.SUPPRESS)
        if named:
            added.add_argument("name", metavar="NAME")
        return added

    plan = command("plan", actions.plan, "What a run needs on a slice.", named=False)
    plan.add_argument("--slice", required=True)
    plan.add_argument("--num-slices", type=int, default=1)
    plan.add_argument("--fast", action="store_true", help="memory alone")
    _planned(plan)

    create = command("create", actions.create, "Ask for slices and wait for them.")
    _made(create, required=True)
    command("setup", actions.setup, "Copy this checkout to all workers and install it.")

    run = command("run", actions.run, "Start a run; make and set up what is not there.")
    _made(run, required=False)

    logs = command("logs", actions.logs, "What a worker's run has written.")
    logs.add_argument("--worker", default="0", help="a number, or all")
    logs.add_argument(
        "--slice-index", type=int, default=0, help="which of several slices"
    )
    logs.add_argument("--lines", type=int, default=100)
    logs.add_argument("--follow", action="store_true", help="go on until Ctrl-C")

    resume = command(
        "resume",
        actions.resume,
        "Watch a run until it has ended; make anew what is lost.",
    )
    resume.add_argument(
        "--delete", action="store_true", help="the slices once it is done"
    )

    fetch = command("fetch", actions.fetch, "Copy report, results and model home.")
    fetch.add_argument("--to", type=pathlib.Path, help="default: runs/NAME")
    fetch.add_argument("--all", action="store_true", help="checkpoints and caches too")

    delete = command("delete", actions.delete, "Delete the slices of NAME.")
    delete.add_argument("--yes", action="store_true", help="without being asked")

    cost = command(
        "cost", actions.cost, "What slices cost, and have cost.", named=False
    )
    cost.add_argument("name", metavar="NAME", nargs="?")
    _slices(cost, required=False)
    cost.add_argument("--hours", type=float, default=1.0)
    return parser


def main(
    argv: Sequence[str] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Runs a subcommand; returns the exit code.

    Args:
      argv: without the program's name; what follows the first "--" is the run's.
      sleep: waits for seconds.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    flags: list[str] = []
    if "--" in words:
        at = words.index("--")
        words, flags = words[:at], words[at + 1 :]
    args = _parser().parse_args(words)
    gcloud = Gcloud(args.dry_run, sleep)
    store = state.Store(args.state or state.folder(), args.dry_run)
    try:
        return args.action(args, flags, gcloud, store) or 0
    except LaunchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print(
            "\nstopped here. What was made or asked for is still there and may cost: "
            "python -m launch cost",
            file=sys.stderr,
        )
        return STOPPED
