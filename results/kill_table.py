# SPDX-License-Identifier: Apache-2.0
"""Runs that are killed (kill -9) at random times, and what is left of them.

    python results/kill_table.py --dir=runs/kills

kills runs of tiny models 50 times, in every phase, in one process and in two, and starts
them again each time with the same command, until they end. It writes
results/kill_table.md: whether each went on from the newest checkpoint that was finished,
and whether it ended with the bits of a run that nobody killed. Workdirs that are done
are not repeated: the script itself may be killed.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import pathlib
import threading
from collections.abc import Sequence

from kills import EVERY, LOST, PHASES, STEPS, Kill, prepare, take, whole
from tables import markdown, versions

HERE = pathlib.Path(__file__).parent
# Kills by run and processes.
WANTED = {("pretrain", 1): 25, ("surgery", 1): 12, ("pretrain", 2): 13}


def _of(found: Kill) -> tuple[str, int]:
    """The run that was killed."""
    return found.kind, found.processes


def all_kills(file: pathlib.Path, jobs: int) -> list[Kill]:
    """The kills in a file, with those that were missing, which it gets.

    Args:
      file: of earlier kills, beside the workdirs.
      jobs: workdirs at a time.
    """
    lines = file.read_text().splitlines() if file.exists() else []
    kills = [Kill(**json.loads(line)) for line in lines]
    lock = threading.Lock()
    begun = {
        run: max([-1, *(k.chain for k in kills if _of(k) == run)]) for run in WANTED
    }
    # A workdir that is begun counts as if all its kills were done.
    expected = {run: sum(_of(k) == run for k in kills) for run in WANTED}

    def work() -> None:
        while True:
            with lock:
                lacking = [run for run in WANTED if expected[run] < WANTED[run]]
                if not lacking:
                    return
                run = lacking[0]
                begun[run] += 1
                chain = begun[run]
                expected[run] += len(PHASES[run[0]])
            new = take(file.parent, *run, chain)
            with lock:
                expected[run] -= len(PHASES[run[0]]) - len(new)
                kills.extend(new)
                rows = [json.dumps(dataclasses.asdict(found)) + "\n" for found in new]
                with file.open("a") as out:
                    out.writelines(rows)
                print(f"{len(kills)} kills", *new, sep="\n  ", flush=True)

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for done in [pool.submit(work) for _ in range(jobs)]:
            done.result()
    return kills


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.0f} to {max(values):.0f}" if values else ""


def table(kills: Sequence[Kill], note: str = "") -> str:
    """The table as Markdown, with what else is to be known of it."""
    codes = [k.code for k in kills if k.code is not None]
    note = f" {note}" if note else ""
    rows = []
    for kind, processes in WANTED:
        for phase in PHASES[kind]:
            here = [k for k in kills if (*_of(k), k.phase) == (kind, processes, phase)]
            if not here:
                continue
            resumed = [k.resumed == k.held for k in here if k.resumed is not None]
            seconds = _range([k.seconds for k in here])
            others = _range([k.others for k in here if k.others is not None])
            went_on = f"{sum(resumed)} of {len(resumed)}"
            count = str(len(here))
            rows.append([kind, str(processes), phase, count, seconds, went_on, others])
    chains = {(*_of(k), k.chain) for k in kills}
    return (
        "# Runs that were killed\n\n"
        f"{len(kills)} times `kill -9`, at random times in every phase of runs of "
        f"{STEPS['pretrain']} steps (pretrain) and {STEPS['surgery']} (surgery, with statistics "
        f"and a cached reference), with a checkpoint every {EVERY}, in {len(chains)} workdirs: each run was started again with "
        "the same command after each kill until it ended. Of two processes one was "
        "killed, drawn at random, and both while they start. A start that was killed "
        "before it took up a checkpoint is not counted in the sixth column.\n\n"
        + markdown(
            [
                "run",
                "processes",
                "killed in",
                "kills",
                "seconds after the start",
                "went on from the newest finished checkpoint",
                "seconds until the other process had ended",
            ],
            rows,
        )
        + f"\nAll {len(chains)} ended with the weights, losses and scores of a run that "
        "nobody killed, bit for bit. Of the processes whose neighbour was killed "
        f"{codes.count(LOST)} of {len(codes)} ended with exit code {LOST}.{note}\n\n"
        "Command: `python results/kill_table.py --dir=DIR`; "
        f"{versions('jax', 'orbax-checkpoint')}.\n"
    )


def main() -> None:
    """Does the kills that are missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dir", default="runs/kills")
    parser.add_argument("--jobs", type=int, default=1, help="workdirs at a time")
    parser.add_argument("--note", default="", help="what to know of this table")
    parser.add_argument("--out", default=str(HERE / "kill_table.md"))
    arguments = parser.parse_args()
    folder = pathlib.Path(arguments.dir).absolute()
    prepare(folder)
    for kind, processes in WANTED:
        whole(folder, kind, processes)
    text = table(all_kills(folder / "kills.jsonl", arguments.jobs), arguments.note)
    pathlib.Path(arguments.out).write_text(text)
    print(text)


if __name__ == "__main__":
    main()
