# SPDX-License-Identifier: Apache-2.0
"""Two processes of four devices each do what one of eight does; errors say what lacks."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import on_devices
import pytest

from jax_surgery.checkpoints import hf_weights
from jax_surgery.parallel import distributed


def losses(workdir) -> list[float]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.slow
def test_two_processes_do_what_one_does(tiny_model, write_texts, tmp_path):
    texts = tiny_model.texts
    arguments = [
        "--config=configs/surgery.py",
        f"--config.model={tiny_model.folder}",
        f"--config.data.unlearn={write_texts('unlearn', texts[:3])}",
        f"--config.data.update={write_texts('update', [f'{t} or so' for t in texts])}",
        f"--config.data.retain={write_texts('retain', texts[3:])}",
        "--config.data.questions=",
        "--config.data.context=32",
        "--config.data.surprise=0.0",
        "--config.steps=3",
        "--config.reference=cached",
        "--config.objective.gamma=1.0",
        "--config.optimizer.name=adamw",
        "--config.optimizer.first_layer=0",
        "--config.optimizer.matrices=",
        "--config.optimizer.learning_rate=0.0001",
        "--config.loop.checkpoint_every=2",
    ]
    one, two = tmp_path / "one", tmp_path / "two"
    alone = on_devices.start([*arguments, f"--workdir={one}"], 8)
    pair = on_devices.start_pair([*arguments, f"--workdir={two}"], 4)
    printed = on_devices.ended([alone, *pair])
    assert "8 x cpu, 2 processes" in printed[1]
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-5)
    # Written once, by process 0; the other tells nothing of the end.
    assert "report:" in printed[1] and "report:" not in printed[2]
    results = [json.loads((d / "results.json").read_text()) for d in (one, two)]
    for role, known in results[0]["roles"].items():
        other = results[1]["roles"][role]
        for when in ("before", "after"):
            assert other[when]["tokens"] == known[when]["tokens"]
            assert other[when]["nll_per_token"] == pytest.approx(
                known[when]["nll_per_token"], rel=1e-5
            )
    models = [hf_weights.load_model(str(d / "model"))[0] for d in (one, two)]
    heads = [m["embedder"]["embedding"] for m in models]
    # Adam's first step takes the sign of gradients that rounding alone may give.
    np.testing.assert_allclose(heads[1], heads[0], atol=7e-4)


@pytest.mark.parametrize(
    "variables, message",
    [
        ({"JAX_PROCESS_ID": "1"}, r"JAX_PROCESS_ID is set and JAX_COORDINATOR_ADDRESS"),
        (
            {"JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0"},
            r"JAX_NUM_PROCESSES='two' and JAX_PROCESS_ID='0' must be whole numbers",
        ),
        (
            {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"},
            r"JAX_NUM_PROCESSES='2' and JAX_PROCESS_ID='2' must be whole numbers, and the second below",
        ),
    ],
)
def test_variables_that_do_not_fit_are_an_error(variables, message, monkeypatch):
    if len(variables) > 1:
        variables = variables | {"JAX_COORDINATOR_ADDRESS": "localhost:1"}
    for name in distributed.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        distributed.initialise()


def test_one_machine_needs_no_variables():
    environment = {
        k: v for k, v in os.environ.items() if k not in distributed.VARIABLES
    }
    code = "from jax_surgery.parallel import distributed as d; d.initialise();"
    code += "import jax; print('processes', jax.process_count(), d.is_lead())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=on_devices.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.search(r"processes 1 True", done.stdout)
