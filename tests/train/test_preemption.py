# SPDX-License-Identifier: Apache-2.0
"""A signal to one of two processes stops both at one step, and both go on from there;
one process goes on on another number of devices.
"""

import json
import pathlib
import re
import signal
import time

import numpy as np
import on_devices
import pytest

CONFIG = """
from configs import pretrain

def get_config():
    config = pretrain.get_config()
    small = dict(vocab_size=280, hidden_size=8, intermediate_size=8, num_layers=1,
                 num_heads=1, num_kv_heads=1, tokenizer_texts="")
    config.new_model.update(small)
    config.data.update(train="text.jsonl", rows=2, context=32, questions="")
    config.data.epochs = 32  # 80 steps
    config.optimizer.warmup = 2
    config.loop.update(log_every=1, checkpoint_every=7, evaluate_every=0)
    return config
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """A folder with a text and a config that trains a tiny model on it."""
    found = tmp_path_factory.mktemp("pairs")
    lines = [{"text": f"number {i} is {i * 7 % 13}"} for i in range(20)]
    (found / "text.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    (found / "tiny.py").write_text(CONFIG)
    return found


def begin(folder, name: str, program=on_devices.MAIN) -> list:
    arguments = ["--config=tiny.py", f"--workdir={name}"]
    return on_devices.start_pair(arguments, 1, folder, program)


def rows(workdir) -> list[dict]:
    file = workdir / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line) for line in lines]


def stopped(folder, name: str, beyond: int, signals) -> int:
    """The step at which both processes stop where `signals` = [(process, signal,
    seconds to wait before it)] come once a run is beyond a step."""
    pair = begin(folder, name, on_devices.SLOW_MAIN)
    deadline = time.monotonic() + 240
    while len(rows(folder / name)) <= beyond:
        assert all(p.poll() is None for p in pair) and time.monotonic() < deadline
        time.sleep(0.05)
    for place, number, wait in signals:
        time.sleep(wait)
        pair[place].send_signal(number)
    printed = on_devices.ended(pair, 130)
    steps = [int(re.search(r"stopped at step (\d+) of", p)[1]) for p in printed]
    assert steps[0] == steps[1], printed
    assert all("which is saved. Go on with:" in p for p in printed)
    assert (folder / name / "checkpoints" / str(steps[0])).is_dir()
    return steps[0]


@pytest.mark.slow
def test_both_stop_at_one_step_and_go_on_bit_equal(folder):
    on_devices.ended(begin(folder, "whole"))
    first = stopped(folder, "parts", 0, [(1, signal.SIGTERM, 0)])
    both = [(0, signal.SIGINT, 0), (1, signal.SIGTERM, 0.4)]
    second = stopped(folder, "parts", first + 1, both)
    assert 0 < first < second
    on_devices.ended(begin(folder, "parts"))
    files = [folder / n / "model" / "model.safetensors" for n in ("parts", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()
    losses = [[r["loss"] for r in rows(folder / n)] for n in ("parts", "whole")]
    assert losses[0] == losses[1] and len(losses[0]) > second


def alone(folder, name: str, devices: int, program=on_devices.MAIN):
    arguments = ["--config=tiny.py", f"--workdir={name}"]
    return on_devices.start(arguments, devices, folder, program)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(8, 8), (1, 8), (8, 2)])
def test_stopped_and_resumed_on_other_devices(folder, before, after):
    """Bit-equal on as many, else equal to rounding."""
    whole, name = f"whole-{after}", f"from-{before}-to-{after}"
    if not (folder / whole).exists():
        on_devices.ended([alone(folder, whole, after)])
    process = alone(folder, name, before, on_devices.SLOW_MAIN)
    deadline = time.monotonic() + 240
    while len(rows(folder / name)) <= 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    on_devices.ended([process], 130)
    printed = on_devices.ended([alone(folder, name, after)])[0]
    assert "resuming at step" in printed
    losses = [[r["loss"] for r in rows(folder / n)] for n in (name, whole)]
    if before == after:
        files = [folder / n / "model" / "model.safetensors" for n in (name, whole)]
        assert files[0].read_bytes() == files[1].read_bytes()
        assert losses[0] == losses[1]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
