# SPDX-License-Identifier: Apache-2.0
"""All of TOFU's scores, ours against open-unlearning's evaluator in PyTorch, in turn.

The same small Llama, the same forget10, retain, real authors, world facts and held-out
questions, float32, in two processes that take turns. Ours is `metrics.tofu.ask`: one
forward pass over packed rows, and batched replies; PyTorch's is results/evaluator_torch.py.
The values of every question are compared. Needs PyTorch, and TOFU.

    python results/evaluator_speed.py --dir=DIR [--model=DIR] [--first=N] [--rounds=N]

writes results/evaluator_speed.md. `--model` is a model fitted to TOFU, such as fit/model
in the workdir of configs/tofu.py; without one it is fitted here, for `--epochs`.
"""

import argparse
import os
import pathlib
import tempfile

import numpy as np
import processor
import tables
from evaluator_torch import PARTS, clocks
from evaluator_torch import serve as serve_torch
from processes import Process

HERE = pathlib.Path(__file__).parent
# Passes that open-unlearning makes beside the answers' own: exact memorisation and
# extraction strength of forget; loss, zlib, min-k and twice min-k++ of forget and holdout.
FURTHER = {"forget": 2 + 5, "holdout": 5}


def fitted(directory: str, folder: str, epochs: float) -> str:
    """The directory of a model fitted to TOFU by configs/tofu.py."""
    from jax_surgery.runs import tofu

    fields = {"data.dir": directory, "fit.data.epochs": epochs}
    return tofu.fit(tables.settings_of("tofu", **fields), folder)


def texts_of(model: str, benchmark) -> dict[str, list]:
    """By split, of each question its answers as tokens and which are learned."""
    from jax_surgery.checkpoints import hf_weights
    from jax_surgery.data.tokens import encode_whole
    from jax_surgery.metrics.tofu.asking import answers_to

    tokenizer, found = hf_weights.load_tokenizer(model), {}
    for split, rows in benchmark.asked().items():
        found[split] = [
            [(d.tokens, d.learned) for d in encode_whole(answers_to(row), tokenizer)]
            for row in rows
        ]
    return found


def serve_ours(connection, model: str, benchmark) -> None:
    """As `evaluator_torch.serve`."""
    from jax_surgery.parallel.host_memory import keep_freed_memory

    keep_freed_memory()
    from jax_surgery.metrics.tofu import asking
    from jax_surgery.models.compute import DEFAULT_COMPUTE
    from jax_surgery.train import devices

    loaded, asked = devices.load(model, DEFAULT_COMPUTE), benchmark.asked()
    while connection.recv():
        times = [clocks()]
        scores = asking.score(loaded, asked)
        times.append(clocks())
        recalls = asking.recall(loaded, asked)
        times.append(clocks())
        found = {
            split: {n: v for n, v in vars(table).items() if v is not None}
            for split, table in asking.tables_of(asked, scores, recalls).items()
        }
        spent = np.diff(times, axis=0)
        connection.send((dict(zip(PARTS, spent, strict=True)), found))
    connection.send(None)


def race(racers: dict[str, Process], rounds: int):
    """Seconds of each part, round by round in turn, the first round (in which ours
    compiles) apart; the values of each program; and the processor's rates."""
    first, seconds, values, rates = {}, {name: [] for name in racers}, {}, []
    for number in range(rounds + 1):
        for name, racer in racers.items():
            times, values[name] = racer.ask(True)
            if number:
                seconds[name].append(times)
            else:
                first[name] = times
            shown = {part: value.round(2).tolist() for part, value in times.items()}
            print(f"round {number}, {name}: {shown}", flush=True)
        rates.append(processor.measured())
    return first, seconds, values, rates


def differences(values: dict[str, dict]) -> list[list[str]]:
    """Of each value that both give, over all splits: how many, and how far apart."""
    ours, theirs = values["ours"], values["open-unlearning"]
    pairs: dict[str, list] = {}
    for split, columns in theirs.items():
        for name, column in columns.items():
            pairs.setdefault(name, []).append((ours[split][name], column))
    rows = []
    for name, columns in pairs.items():
        one, other = (
            np.concatenate([np.ravel(c) for c in own])
            for own in zip(*columns, strict=True)
        )
        apart = np.abs(one - other)
        cells = [f"{one.mean():.5f}", f"{other.mean():.5f}", f"{apart.max():.1e}"]
        rows.append([name.replace("_", " "), str(len(one)), *cells])
    return rows


def times_faster(seconds: dict[str, list[dict]]) -> list[list[str]]:
    """Of each part and of all, by both clocks: median seconds of both programs, and the
    median ratio."""
    rows = []
    for clock, named in enumerate(("", ", processors")):
        for what, parts in (*((part, (part,)) for part in PARTS), ("all", PARTS)):
            own, other = (
                np.array(
                    [sum(times[p][clock] for p in parts) for times in seconds[name]]
                )
                for name in ("ours", "open-unlearning")
            )
            cells = [f"{np.median(each):.1f}" for each in (own, other)]
            rows.append([what + named, *cells, f"{np.median(other / own):.1f}"])
    return rows


def main() -> None:
    """Fits, races and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", required=True, help="directory of TOFU's files")
    parser.add_argument("--model", default="", help="fitted to TOFU")
    parser.add_argument("--epochs", type=float, default=14.0, help="of a fit here")
    parser.add_argument(
        "--first", type=int, default=0, help="questions a split; 0: all"
    )
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    from jax_surgery.benchmarks.tofu import Tofu
    from jax_surgery.checkpoints import hf_weights
    from jax_surgery.metrics.tofu.asking import NEW_TOKENS
    from jax_surgery.models import decoder

    benchmark = Tofu(arguments.dir, "forget10", first=arguments.first)
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or fitted(arguments.dir, folder, arguments.epochs)
        size = decoder.parameter_count(hf_weights.load_config(model))
        texts = texts_of(model, benchmark)
        racers = {
            "ours": Process(serve_ours, model, benchmark),
            "open-unlearning": Process(serve_torch, model, texts, NEW_TOKENS),
        }
        first, seconds, values, rates = race(racers, arguments.rounds)
        for racer in racers.values():
            racer.end(False)
    answers = {split: sum(map(len, rows)) for split, rows in texts.items()}
    further = sum(FURTHER.get(split, 0) * len(rows) for split, rows in texts.items())
    passed = sum(answers.values()) - len(texts["holdout"]) + further
    asked = ", ".join(f"{len(rows)} of {split}" for split, rows in texts.items())
    compiled, other = (
        sum(spent[0] for spent in first[name].values()) for name in racers
    )
    (
        HERE / "evaluator_speed.md"
    ).write_text(f"""# TOFU's scores against open-unlearning's evaluator

`python results/evaluator_speed.py --dir=DIR --first={arguments.first} --rounds={arguments.rounds}` with {tables.versions("jax", "torch", "transformers")}.
{processor.sentence(rates)} Float32, a Llama of {size / 1e6:.1f} M parameters fitted to
TOFU; questions: {asked.replace("_", " ")}. *open-unlearning* is a loop in PyTorch written
from the description of its evaluator: a pass for each metric and answer, {passed:,} texts
in batches of 32; ours reads {sum(answers.values()):,} answers in one pass. Both write up to
{NEW_TOKENS} tokens to each question but held-out ones. Seconds: medians of
{arguments.rounds} rounds in which they take turns; ratios are medians of the rounds'.
*Processors* is the time that they worked for the program, without what it waited for others.

{tables.markdown(["part", "ours, s", "open-unlearning, s", "times faster"], times_faster(seconds))}
The first round, in which ours compiles, took {compiled:.1f} s against {other:.1f} s:
{other / compiled:.1f} times faster.

Both give the same values, of every question and answer:

{tables.markdown(["value", "n", "mean, ours", "mean, open-unlearning", "largest difference"], differences(values))}""")


if __name__ == "__main__":
    main()
