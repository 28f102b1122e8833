# SPDX-License-Identifier: Apache-2.0
"""Runs whose bucket fails: 503s, dropped connections, outages up to ten minutes.

    python results/fault_table.py --dir=runs/faults

runs a surgery of a tiny model with its workdir on gs://, behind the storage server of the
tests, once without faults and once with each kind of them, two at a time, and writes
results/fault_table.md: how each ended, what it said, and whether its model has the bits
of the run without faults. Needs the extra `test`; about 15 minutes.
"""

import argparse
import concurrent.futures
import dataclasses
import pathlib
import re
import subprocess
import sys
import time

from kills import EVERY, FLAGS, ROOT, STEPS, prepare, run_environment
from tables import markdown, versions

sys.path.insert(0, str(ROOT / "tests"))
from storage_server import Server

HERE = pathlib.Path(__file__).parent
ABOUT = re.compile(r"requests are repeated|answers again|could not be written")
PROGRESS = re.compile(r"step/s|s/step|\d+%\|")  # the bar, which is rewritten in place


@dataclasses.dataclass(frozen=True)
class Trial:
    """A run and its faults.

    Attributes:
      unavailable: part of the requests that get 503.
      dropped: part of the requests whose connection is closed.
      outage: seconds without an answer, from the first finished checkpoint on.
    """

    name: str
    unavailable: float = 0.0
    dropped: float = 0.0
    outage: float = 0.0


@dataclasses.dataclass
class Outcome:
    """What came of a trial.

    Attributes:
      seconds: of the whole command.
      requests: that failed.
      lines: of its log that name the bucket's faults.
      said: lines of the whole log.
    """

    code: int
    seconds: float
    requests: int
    lines: list[str]
    said: int
    model: bytes


TRIALS = (
    Trial("none"),
    Trial("an outage of ten minutes", outage=600),
    Trial("503 for 10 %", unavailable=0.1),
    Trial("503 for 40 %", unavailable=0.4),
    Trial("5 % of connections dropped", dropped=0.05),
    Trial("an outage of 20 seconds", outage=20),
)


def tried(trial: Trial, folder: pathlib.Path) -> Outcome:
    """Runs the command of a trial to its end."""
    with Server("bucket") as server:
        server.faults.unavailable = trial.unavailable
        server.faults.dropped = trial.dropped
        began = time.monotonic()
        with (folder / f"{trial.name.replace(' ', '_')}.log").open("w+") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "jax_surgery.main"),
                    f"--config={ROOT / 'configs' / 'surgery.py'}",
                    "--workdir=gs://bucket/run",
                    f"--config.loop.checkpoint_every={EVERY}",
                    *FLAGS["surgery"],
                ],
                env=run_environment() | server.variables,
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            while trial.outage and process.poll() is None:
                if any("commit_success" in n for n in list(server.storage.written)):
                    server.faults.down_until = time.time() + trial.outage
                    break
                time.sleep(0.05)
            code = process.wait(timeout=3000)
            seconds = time.monotonic() - began
            log.seek(0)
            lines = [line for line in log.read().splitlines() if line.strip()]
        said = [line for line in lines if not PROGRESS.search(line)]
        objects = server.storage.buckets["bucket"]
        held = objects.get("run/model/model.safetensors")
        return Outcome(
            code,
            seconds,
            server.faults.happened,
            [line for line in said if ABOUT.search(line)],
            len(said),
            held.data if held else b"",
        )


def main() -> None:
    """Runs all trials and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", required=True, help="for models, text and logs")
    folder = pathlib.Path(parser.parse_args().dir).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    prepare(folder)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = dict(
            zip(TRIALS, pool.map(lambda t: tried(t, folder), TRIALS), strict=True)
        )
    calm = found[TRIALS[0]]
    rows = []
    for trial, outcome in found.items():
        same = "yes" if outcome.model and outcome.model == calm.model else "no"
        rows.append(
            [
                trial.name,
                str(outcome.requests),
                str(outcome.code),
                f"{outcome.seconds:.0f}",
                str(len(outcome.lines)),
                str(outcome.said - calm.said),
                same,
            ]
        )
        print(trial.name, *outcome.lines, sep="\n  ", flush=True)
    heads = ["faults", "requests that failed", "exit code", "seconds"]
    heads += ["lines about the bucket", "lines more than without faults", "same bits"]
    (HERE / "fault_table.md").write_text(
        f"""# Runs whose bucket fails

A surgery of a tiny model, {STEPS["surgery"]} steps with a checkpoint every {EVERY} and the
workdir on `gs://`, against the tests' storage server; outages begin at the first finished
checkpoint. Two runs at a time, seconds of the whole command. *Same bits*: the exported
model is that of the run without faults.

{markdown(heads, rows)}
Command: `python results/fault_table.py --dir=DIR`; {versions("jax", "gcsfs", "tensorstore", "orbax-checkpoint")}.
"""
    )


if __name__ == "__main__":
    main()
