# SPDX-License-Identifier: Apache-2.0
"""The three-term step on CPU, ours against PyTorch with `transformers`, side by side.

The same Llama (the published 42 M one of llama2.c: width 512, 8 layers, 32 000 words),
the same TOFU texts, float32, AdamW on all parameters, in two processes that take turns.
Ours packs the texts, runs one forward pass and reads the cached reference; PyTorch's is
results/torch_loop.py in the fastest of its settings: as open-unlearning batches texts,
and with texts of like length together, which it does not do. Needs PyTorch, and TOFU.

    python results/cpu_speed.py --dir=DIR [--before=CHECKOUT]

writes results/cpu_speed.md. About 10 minutes on 2 cores with nothing beside it. The step
of another checkout of this repository takes its turns among the others.
"""

import argparse
import dataclasses
import multiprocessing
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import checkouts
import numpy as np
import processor
import tables
from processes import Process

HERE = pathlib.Path(__file__).parent
CONTEXT, LEARNING_RATE = 256, 1e-5
ROWS = {"unlearn": 4, "update": 3, "retain": 4}  # packed rows of a step
STEPS = 2  # different ones, gone through in turn
SEARCHED = {
    "PyTorch": [{"micro": m} for m in (2, 4, 8, 16)],
    "PyTorch, bucketed": [{"micro": m, "bucketed": True} for m in (2, 4, 8)],
}
# torch.compile took 2 to 3.5 minutes for its first step on this machine and was not
# faster after it; --compile adds it to the search.
COMPILED = {"micro": 8, "compiled": True}
BEFORE = "ours, before"


def prepare(directory: str, folder: str):
    """Model, tokenised texts of each step, and the same packed as batches."""
    from jax_surgery.benchmarks.tofu import Tofu
    from jax_surgery.checkpoints import hf_weights
    from jax_surgery.data import records
    from jax_surgery.data.bpe import train_bpe
    from jax_surgery.data.packing import Packer
    from jax_surgery.data.stream import BatchStream
    from jax_surgery.data.tokens import encode
    from jax_surgery.models import decoder
    from jax_surgery.models.config import ModelConfig

    benchmark = Tofu(directory, "forget10")
    texts = [r.prompt + r.answer for r in records.read_source(benchmark.files["full"])]
    tokenizer = train_bpe(texts, 4096)
    packers: dict[str, Packer] = {
        group.role: Packer(
            encode(records.read_source(group.data), tokenizer, CONTEXT),
            CONTEXT,
            "tokens",
        )
        for group in benchmark.groups()
    }
    stream = BatchStream(packers, ROWS, 0)
    batches = [next(stream) for _ in range(STEPS)]
    ends = dict(zip(ROWS, np.cumsum(list(ROWS.values())), strict=True))
    steps = [
        {
            role: [
                (batch.tokens_BT[row][own], batch.weights_BT[row][own] > 0)
                for row in range(ends[role] - ROWS[role], ends[role])
                for own in _documents(batch.segment_ids_BT[row])
            ]
            for role in ROWS
        }
        for batch in batches
    ]
    config = ModelConfig(
        vocab_size=32000,
        hidden_size=512,
        intermediate_size=1376,
        num_layers=8,
        num_heads=8,
        num_kv_heads=8,
        head_dim=64,
        tie_embeddings=True,
        max_positions=1024,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = str(pathlib.Path(folder, "model"))
    hf_weights.save_model(decoder.init_params(config, 0), config, model)
    return model, steps, batches, decoder.parameter_count(config)


def _documents(segments_T):
    for number in range(1, segments_T.max() + 1):
        yield segments_T == number


def serve_ours(connection, model: str, batches, reference: str) -> None:
    """As `torch_loop.serve`: answers numbers of steps with (seconds, metrics)."""
    from jax_surgery.parallel.host_memory import keep_freed_memory

    keep_freed_memory()
    import jax

    from configs import paper_formula
    from jax_surgery.checkpoints import hf_weights
    from jax_surgery.data.role_rows import RoleRows
    from jax_surgery.models import decoder, output_head
    from jax_surgery.optim.optimizer import make_optimizer
    from jax_surgery.runs import settings
    from jax_surgery.train.step import init_state, make_train_step

    params, config = hf_weights.load_model(model)
    paper_run = settings.from_config(paper_formula.get_config())
    compute = paper_run.compute
    rows = RoleRows(**ROWS)
    choice = dataclasses.replace(
        paper_run.optimizer, learning_rate=LEARNING_RATE, schedule="constant"
    )
    optimizer = make_optimizer(choice, 10**6)
    objective = dataclasses.replace(
        paper_run.objective, kl_direction="reference_to_model"
    )
    loss = dataclasses.replace(paper_run.loss, objective=objective)
    step = make_train_step(
        config, loss, rows, optimizer, compute=compute, average="tokens"
    )
    frozen = jax.tree.map(jax.numpy.copy, params)
    hidden = jax.jit(lambda p, b: decoder.forward_packed(p, config, b, compute=compute))
    ready = []
    for batch in batches:
        inputs = batch.for_devices()
        if reference == "cached":
            retain = inputs.text.take(rows, "retain")
            states = np.asarray(hidden(frozen, retain))
            inputs = inputs.replace(reference_hidden_RTD=states)
        ready.append(inputs)
    if reference == "cached":
        frozen = output_head.parameters(frozen)
    state, done = init_state(params, optimizer), 0
    while count := connection.recv():
        began, found = time.perf_counter(), []
        for _ in range(count):
            state, metrics = step(state, ready[done % len(ready)], frozen)
            found.append(jax.device_get(metrics))
            done += 1
        connection.send((time.perf_counter() - began, found))
    connection.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


class Racer(Process):
    """One program in a process of its own."""

    def run(self, steps: int):
        """(seconds, metrics of each step)."""
        return self.ask(steps)

    def end(self, message: int = 0) -> float:
        """Ends the process; the most memory that it held, GiB."""
        return super().end(message) / 2**30


class CheckoutRacer(Racer):
    """The step of another checkout, which makes its own model and batches of the same."""

    def __init__(self, checkout: str, directory: str, folder: str):
        self._pipe, other = multiprocessing.Pipe()
        paths = [str(pathlib.Path(path).resolve()) for path in (directory, folder)]
        process = subprocess.Popen(
            [sys.executable, "-P", checkouts.__file__, str(other.fileno()), *paths],
            env=checkouts.environment(checkouts.script(checkout, "cpu_speed.py")),
            pass_fds=[other.fileno()],
        )
        other.close()  # so that its end is seen here
        self._wait = process.wait


def serve_torch(connection, model: str, steps, choice: dict) -> None:
    """`torch_loop.serve` with the settings in a dict."""
    import torch_loop

    settings = torch_loop.TorchSettings(**choice)
    torch_loop.serve(connection, model, steps, settings, LEARNING_RATE)


def search(model: str, steps, choices: list[dict]) -> tuple[dict, list[list[str]]]:
    """The fastest of PyTorch's settings, each timed on the same two steps."""
    rows, best = [], (float("inf"), {})
    for choice in choices:
        racer = Racer(serve_torch, model, steps, choice)
        racer.run(1)
        seconds = min(racer.run(1)[0] for _ in range(3))
        racer.end()
        rows.append([str(choice), f"{seconds:.1f}"])
        print(tables.line(rows[-1]), flush=True)
        best = min(best, (seconds, choice), key=lambda pair: pair[0])
    return best[1], rows


def race(
    racers: dict[str, Racer], rounds: int
) -> tuple[dict[str, list[float]], list[float]]:
    """Seconds of a step of each program, round by round in turn, and the processor's
    rate of plain products after each round."""
    for racer in racers.values():
        racer.run(STEPS)  # compiles, and touches every shape
    seconds: dict[str, list[float]] = {name: [] for name in racers}
    rates = []
    for number in range(rounds):
        for name, racer in racers.items():
            seconds[name].append(racer.run(STEPS)[0] / STEPS)
        rates.append(processor.measured())
        shown = {name: round(values[-1], 2) for name, values in seconds.items()}
        print(f"round {number + 1}: {shown}, {rates[-1]:.0f} GFLOP/s", flush=True)
    return seconds, rates


def main() -> None:
    """Searches, races and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", required=True, help="directory of TOFU's files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="search it too")
    parser.add_argument("--before", default="", help="another checkout, raced too")
    arguments = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    with tempfile.TemporaryDirectory() as folder:
        model, steps, batches, parameters = prepare(arguments.dir, folder)
        extra = [COMPILED] if arguments.compile else []
        found = {name: search(model, steps, c + extra) for name, c in SEARCHED.items()}
        racers = {
            "ours": Racer(serve_ours, model, batches, "cached"),
            "ours, live reference": Racer(serve_ours, model, batches, "live"),
        }
        if arguments.before:
            own = pathlib.Path(folder, "before")
            own.mkdir()
            racers[BEFORE] = CheckoutRacer(arguments.before, arguments.dir, str(own))
        for name, (best, _) in found.items():
            racers[name] = Racer(serve_torch, model, steps, best)
        first = {name: racer.run(1)[1][0] for name, racer in racers.items()}
        seconds, rates = race(racers, arguments.rounds)
        held = {name: racer.end() for name, racer in racers.items()}
    real = np.mean([(b.segment_ids_BT > 0).sum() for b in batches])
    positions = sum(ROWS.values()) * CONTEXT
    peers = [*SEARCHED, *([BEFORE] if arguments.before else [])]
    heads = ["program", "useful tokens a second", *(f"{peer} = 1" for peer in peers)]
    heads += ["peak memory GiB", "first unlearn CE, update CE, KL"]
    rows = []
    for name, values in seconds.items():
        ratios = [
            f"{np.median(np.array(seconds[peer]) / np.array(values)):.2f}"
            for peer in peers
        ]
        m = first[name]
        ours = ("unlearn_ce", "update_ce", "retain_kl")
        names = ("unlearn", "update", "retain") if name in SEARCHED else ours
        shown = ", ".join(f"{float(m[term]):.5f}" for term in names)
        rate = f"{real / np.median(values):.0f}"
        rows.append([name, rate, *ratios, f"{held[name]:.1f}", shown])
    table = tables.markdown(heads, rows)
    print(table)
    command, before = "python results/cpu_speed.py --dir=DIR", ""
    if arguments.before:
        command += " --before=CHECKOUT"
        before = (
            f"\n*{BEFORE}* is the step of commit {checkouts.commit(arguments.before)}"
        )
        before += (
            ", with the cached reference, on a model and batches that it makes itself."
        )
    text = f"""# The three-term step on CPU against PyTorch

`{command}` with {tables.versions("jax", "torch", "transformers")}.
{processor.sentence(rates)} Float32,
{parameters / 1e6:.1f} M parameters, {real:.0f} useful tokens a step (ours computes
{positions} positions), AdamW on all parameters. Median of {arguments.rounds} rounds in
which the programs take turns, {STEPS} steps each; ratios are medians of the rounds'.
*PyTorch* cuts a step's texts into micro-batches as they come, as open-unlearning does, but
without the retain pass that it throws away; *bucketed* sorts them by length first.{before}

{table}
PyTorch's settings, seconds of the fastest of three steps; the fastest one of each raced:

{tables.markdown(["settings", "seconds"], [row for _, rows in found.values() for row in rows])}"""
    (HERE / "cpu_speed.md").write_text(text)


if __name__ == "__main__":
    main()
