# SPDX-License-Identifier: Apache-2.0
"""Runs of tiny models that are killed (kill -9) in some phase and started again.

See kill_table.py; tests/train/test_kills.py does a few of its kills.
"""

import dataclasses
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).parents[1]
# What a killed run may be doing, in the order in which one workdir is killed.
PHASES = {
    "pretrain": ("start", "load", "steps", "save", "end"),
    "surgery": ("start", "load", "statistics", "steps", "save", "end"),
}
STEPS = {"pretrain": 20, "surgery": 24}
EVERY = 4  # steps between checkpoints
LOST = 75  # exit code where another process was lost
WITHIN = 60.0  # seconds, in which a process ends whose neighbour was killed

# jax_surgery.main, which says what it begins; each batch takes a while.
PROGRAM = """
import time
from absl import app
from jax_surgery import command_line, main
from jax_surgery.checkpoints import hf_weights
from jax_surgery.data.stream import BatchStream
from jax_surgery.methods import descent
from jax_surgery.train import devices
from jax_surgery.train.checkpoint import Checkpoints

def says(owner, name, mark, wait=0.0):
    before = getattr(owner, name)
    def function(*given, **named):
        print("@" + mark, flush=True)
        time.sleep(wait)
        return before(*given, **named)
    setattr(owner, name, function)

says(devices, "on_mesh", "load")
says(BatchStream, "__next__", "steps", 0.05)
says(Checkpoints, "save", "save")
says(descent, "second_moments", "statistics", 0.2)
says(hf_weights, "save_model", "end")
app.run(main.main, flags_parser=command_line.parse_flags)
"""
NEW_MODEL = "vocab_size=280 hidden_size=8 intermediate_size=8 num_layers=1 num_heads=1 "
NEW_MODEL += "num_kv_heads=1 tokenizer_texts="
FLAGS = {
    "pretrain": [
        *(f"--config.new_model.{field}" for field in NEW_MODEL.split()),
        "--config.data.train=retain.jsonl",
        "--config.data.questions=",
        "--config.data.rows=2",
        "--config.data.context=32",
        "--config.data.epochs=8",  # 20 steps
        "--config.optimizer.warmup=2",
        "--config.loop.evaluate_every=0",
        "--config.loop.log_every=1",
    ],
    "surgery": [
        "--config.model=model",
        "--config.data.unlearn=unlearn.jsonl",
        "--config.data.update=update.jsonl",
        "--config.data.retain=retain.jsonl",
        "--config.data.questions=",
        "--config.data.context=32",
        "--config.data.surprise=0.0",
        "--config.data.rows_unlearn=2",
        "--config.data.rows_update=2",
        "--config.data.rows_retain=2",
        "--config.reference=cached",
        "--config.optimizer.learning_rate=0.01",
        "--config.steps=24",
    ],
}


@dataclasses.dataclass
class Kill:
    """One kill, and what came of it.

    Attributes:
      kind: of run.
      chain: number of the workdir.
      seconds: from the start of the process.
      held: step of the newest finished checkpoint, 0 without one.
      resumed: step that the next start went on from; None if it was killed before.
      others: seconds until the other process had ended; None without one.
      code: its exit code.
    """

    kind: str
    processes: int
    chain: int
    phase: str
    seconds: float = 0.0
    held: int = 0
    resumed: int | None = None
    others: float | None = None
    code: int | None = None


class Started:
    """A run in one process or in several, and what they say."""

    def __init__(self, folder: pathlib.Path, workdir: str, kind: str, processes: int):
        address = f"localhost:{_free_port()}"
        self.began = time.monotonic()
        self.lines: list[list[str]] = [[] for _ in range(processes)]
        self.first: dict[str, float] = {}  # seconds until the first of each mark
        self.processes, self._threads = [], []
        flags = [
            f"--config={ROOT / 'configs' / kind}.py",
            f"--workdir={folder / workdir}",
            f"--config.loop.checkpoint_every={EVERY}",
            *FLAGS[kind],
        ]
        for place in range(processes):
            variables = {
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": str(processes),
                "JAX_PROCESS_ID": str(place),
            }
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *flags],
                env=run_environment() | (variables if processes > 1 else {}),
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            thread = threading.Thread(target=self._read, args=(place,), daemon=True)
            self.processes.append(process)
            self._threads.append(thread)
        for thread in self._threads:
            thread.start()

    def _read(self, place: int) -> None:
        for line in self.processes[place].stdout:
            self.lines[place].append(line)
            for mark in ("@load", "@steps", "@end"):
                if mark in line and not place:
                    self.first.setdefault(mark, time.monotonic() - self.began)

    def said(self, place: int = 0) -> str:
        """What a process has printed so far."""
        return "".join(self.lines[place])

    def wait_for(self, mark: str, count: int) -> bool:
        """Whether a mark came that many times before the run ended."""
        while self.said().count(mark) < count:
            if any(p.poll() is not None for p in self.processes):
                return False
            time.sleep(0.005)
        return True

    def ended(self) -> list[int]:
        """Waits for the end of all; their exit codes."""
        codes = [process.wait(timeout=900) for process in self.processes]
        for thread in self._threads:
            thread.join()
        return codes

    def resumed(self) -> int | None:
        """The step that it went on from; None if it does not say so."""
        if found := re.search(r"resuming at step (\d+) of", self.said()):
            return int(found[1])
        return 0 if "@steps" in self.said() else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def run_environment() -> dict[str, str]:
    """Variables of a run on this machine's processors, from any folder."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(paths)}


def prepare(folder: pathlib.Path) -> None:
    """Writes a tiny model and its text, once."""
    if (folder / "model" / "config.json").exists():
        return
    import jax

    from jax_surgery.checkpoints import hf_weights
    from jax_surgery.data.bpe import train_bpe
    from jax_surgery.models import decoder
    from jax_surgery.models.config import ModelConfig

    folder.mkdir(parents=True, exist_ok=True)
    texts = [f"the number {i} is {i * 7 % 13}" for i in range(24)]
    for role, lines in (
        ("unlearn", texts[:6]),
        ("update", [f"{text} or so" for text in texts[:6]]),
        ("retain", texts[6:]),
    ):
        rows = "".join(json.dumps({"text": line}) + "\n" for line in lines)
        (folder / f"{role}.jsonl").write_text(rows)
    tokenizer = train_bpe(texts, 280)
    config = ModelConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    params = jax.tree.map(lambda x: 3 * x, decoder.init_params(config, 1))
    tokenizer.save_pretrained(str(folder / "model"))
    hf_weights.save_model(params, config, str(folder / "model"))


def held(workdir: pathlib.Path) -> int:
    """The step of the newest finished checkpoint; 0 without one."""
    names = [path.name for path in (workdir / "checkpoints").glob("*")]
    return max([int(name) for name in names if name.isdigit()], default=0)


def outcome(workdir: pathlib.Path) -> dict:
    """What must be the same however often a run was killed."""
    rows = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(row) for row in rows]
    results = json.loads((workdir / "results.json").read_text())
    return {
        "model": (workdir / "model" / "model.safetensors").read_bytes().hex(),
        "losses": [(row["step"], row["loss"]) for row in rows],
        "scores": results.get("roles", results.get("evaluation")),
    }


def whole(folder: pathlib.Path, kind: str, processes: int) -> pathlib.Path:
    """The workdir of a run that nobody kills, made once, with its times beside it."""
    workdir = folder / f"whole-{kind}-{processes}"
    times = folder / f"{workdir.name}.json"
    if not times.exists():
        shutil.rmtree(workdir, ignore_errors=True)
        run = Started(folder, workdir.name, kind, processes)
        assert run.ended() == [0] * processes, run.said()[-3000:]
        seconds = run.first | {"": time.monotonic() - run.began}
        times.write_text(json.dumps(seconds))
    return workdir


def _longest(folder: pathlib.Path, found: Kill) -> float:
    """Seconds that the phase of a kill takes at most."""
    file = folder / f"whole-{found.kind}-{found.processes}.json"
    times = json.loads(file.read_text())
    seconds = {
        "start": times["@load"],
        "load": times["@steps"] - times["@load"],
        "steps": 0.1,
        "end": times[""] - times["@end"],
    }
    return seconds.get(found.phase, 0.5)


def _kill(
    folder: pathlib.Path, workdir: str, found: Kill, rng: random.Random
) -> tuple[Kill | None, Started]:
    """Starts a run and kills a process of it in a phase, both of two while they start.

    Returns:
      (the kill; None where the run had ended before, what was started).
    """
    phase, processes = found.phase, found.processes
    wait = _longest(folder, found) * rng.uniform(0, 1)
    count = {"steps": rng.randint(1, 2 * EVERY), "save": rng.randint(1, 2)}
    victims = [rng.randrange(processes)] if phase != "start" else range(processes)
    run = Started(folder, workdir, found.kind, processes)
    if phase != "start" and not run.wait_for(f"@{phase}", count.get(phase, 1)):
        return None, run
    time.sleep(wait)
    if any(run.processes[victim].poll() is not None for victim in victims):
        return None, run
    for victim in victims:
        run.processes[victim].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    found.seconds = round(killed - run.began, 1)
    codes = run.ended()
    if len(victims) < processes:
        found.others = round(time.monotonic() - killed, 1)
        found.code = codes[1 - victims[0]]
        ended = (folder / workdir / "finished.json").exists()  # well, before the kill
        assert found.code == LOST or ended, (found, run.said(1 - victims[0])[-3000:])
    found.held = held(folder / workdir)
    return found, run


def _check(last: Kill | None, run: Started) -> None:
    """Fails where a run did not go on from what the last kill had left."""
    if last is None:
        return
    last.resumed = run.resumed()
    assert last.resumed in (None, last.held), (last, run.said())
    assert last.others is None or last.others < WITHIN, last


def take(
    folder: pathlib.Path,
    kind: str,
    processes: int,
    chain: int,
    phases: Sequence[str] = (),
) -> list[Kill]:
    """Kills one run in these phases (all), one after another, and lets it end.

    Raises:
      AssertionError: it did not go on from the newest checkpoint, could not be resumed,
        or ended with other bits; or a neighbour did not end in time with `LOST`.
    """
    expected = outcome(whole(folder, kind, processes))
    rng = random.Random(f"{kind} {processes} {chain}")
    workdir = f"{kind}-{processes}-{chain}"
    kills: list[Kill] = []
    last = None
    shutil.rmtree(folder / workdir, ignore_errors=True)
    for phase in phases or PHASES[kind]:
        planned = Kill(kind, processes, chain, phase)
        found, run = _kill(folder, workdir, planned, rng)
        if found is None:
            assert run.ended() == [0] * processes, run.said()[-3000:]
            _check(last, run)
            break  # it was quicker than the kill
        _check(last, run)
        kills.append(last := found)
    if not (folder / workdir / "finished.json").exists():
        run = Started(folder, workdir, kind, processes)
        codes = run.ended()
        assert codes == [0] * processes, (codes, run.said()[-3000:])
        _check(last, run)
    assert outcome(folder / workdir) == expected, (workdir, kills)
    return kills
