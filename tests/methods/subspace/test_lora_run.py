# SPDX-License-Identifier: Apache-2.0
"""Low-rank deltas in a run: on every mesh, stopped and resumed, what it leaves."""

import dataclasses
import json
import os
import signal

import jax
import numpy as np
import on_devices
import pytest
from plain_settings import plain_compute, texts_by_role
from settings_cases import changed, plain_surgery

from jax_surgery.checkpoints import hf_weights
from jax_surgery.metrics import text
from jax_surgery.models import flops
from jax_surgery.models.model import Model
from jax_surgery.optim.lora import LowRank
from jax_surgery.runs import surgery
from jax_surgery.runs.by_roles import ByRoles
from jax_surgery.train import curve, devices
from jax_surgery.train.loop import Callback, Interrupted

STEPS = 6
LOW_RANK = LowRank(rank=2, alpha=8.0, matrices="q,k,o,up,down")


@pytest.fixture
def settings(tiny_model, write_texts, tmp_path):
    texts = tiny_model.texts
    question = {
        "id": "q",
        "group": "numbers",
        "wording": "trained",
        "prompt": "the number 3 is",
        "options": [" 8", " 9"],
        "answer": 0,
    }
    file = tmp_path / "questions.jsonl"
    file.write_text(json.dumps(question) + "\n")
    data = {
        **texts_by_role(texts, write_texts),
        "questions": str(file),
    }
    return plain_surgery(
        model=tiny_model.folder,
        data=data,
        lora=dataclasses.asdict(LOW_RANK),
        optimizer={"learning_rate": 3e-2},
        steps=STEPS,
        loop={"evaluate_every": 2},
    )


def stop_before(step):
    """Stops a run; what it trains are the factors alone."""

    def press(number, state):
        names = {path[-1].key for path, _ in jax.tree.leaves_with_path(state.params)}
        assert names == {"lora_a", "lora_b"}
        if number == step:
            os.kill(os.getpid(), signal.SIGINT)
        return state

    return Callback(1, press)


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["live", "cached"])
def test_stopped_and_resumed_is_bit_equal(settings, tmp_path, reference):
    settings = dataclasses.replace(settings, reference=reference)
    whole, parts = str(tmp_path / "whole"), str(tmp_path / "parts")
    wanted = changed(settings, whole)
    with pytest.raises(Interrupted, match=f"step 2 of {STEPS}"):
        changed(settings, parts, stop_before(1))
    resumed = changed(settings, parts)
    for left, right in zip(
        jax.tree.leaves(resumed), jax.tree.leaves(wanted), strict=True
    ):
        np.testing.assert_array_equal(left, right)


@pytest.mark.slow
def test_a_run_exports_the_base_with_deltas_of_that_rank(
    settings, tmp_path, tiny_model
):
    results = surgery.run(settings, str(tmp_path / "run"))
    params, config = hf_weights.load_model(str(tmp_path / "run" / "model"))
    assert config == tiny_model.config
    for path, before in jax.tree_util.tree_leaves_with_path(tiny_model.params):
        names = [key.key for key in path]
        after = params
        for name in names:
            after = after[name]
        if names[-1] == "kernel" and names[-2] in LOW_RANK.targets:
            rows = flops.matrix_shapes(config)[names[-2]][0]
            delta = np.asarray(after - before).reshape(config.num_layers, rows, -1)
            ranks = np.linalg.matrix_rank(delta, tol=1e-5)
            assert ranks.tolist() == [2] * config.num_layers, names
        else:
            np.testing.assert_array_equal(after, before, err_msg=str(names))
    case = ByRoles(settings)
    case.load()
    roles, packers = results["roles"], case.texts.packers
    assert roles["unlearn"]["after"] != roles["unlearn"]["before"]
    update = roles["update"]
    assert update["after"]["nll_per_token"] < update["before"]["nll_per_token"] - 0.1
    known = text.known(Model(params, config, None, settings.compute), packers["update"])
    after, low_high = dict(update["after"]), known.pop("interval")
    assert after.pop("interval") == pytest.approx(low_high, rel=1e-5)
    memorised = known.pop("memorised_interval")
    assert after.pop("memorised_interval") == pytest.approx(memorised, rel=1e-5)
    assert after == pytest.approx(known, rel=1e-5)
    points = curve.read_curve(str(tmp_path / "run"))
    assert [point["step"] for point in points] == [0, 2, 4]
    assert points[0]["numbers"] == results["before"]["numbers"]["accuracy"]
    trained = 4 * 32 * STEPS
    moves = settings.trainable(config)
    assert results["cost"]["items"]["training"] == flops.training_flops(
        config, trained, 32, moves, rank=2
    )


@pytest.mark.slow
def test_what_is_frozen_keeps_the_files_dtype(settings, tmp_path, tiny_model):
    folder = str(tmp_path / "half")
    hf_weights.save_model(
        tiny_model.params,
        tiny_model.config,
        folder,
        tokenizer_source=tiny_model.folder,
        dtype="bfloat16",
    )
    half = dataclasses.replace(
        settings, model=folder, compute=plain_compute("bfloat16")
    )
    full = dataclasses.replace(half, lora=LowRank(0))
    for wanted, dtype in ((half, "bfloat16"), (settings, "float32"), (full, "float32")):
        params = ByRoles(wanted).load().params
        assert {str(x.dtype) for x in jax.tree.leaves(params)} == {dtype}
    after = changed(half, str(tmp_path / "run"))
    assert {str(x.dtype) for x in jax.tree.leaves(after)} == {"bfloat16"}


def test_a_rank_too_large_is_found_before_the_weights_are_read(settings, monkeypatch):
    monkeypatch.setattr(devices, "load_model", lambda *a: pytest.fail("was loaded"))
    wrong = dataclasses.replace(settings, lora=LowRank(9))
    with pytest.raises(ValueError, match=r"lora.rank=9 .* matrix k of 16 x 8"):
        ByRoles(wrong).load()


@pytest.mark.parametrize(
    "optimizer, words",
    [
        (
            {"name": "orthogonal"},
            ["name='orthogonal'", "use config.optimizer.name=adamw"],
        ),
        ({"name": "natural"}, ["name='natural' steps along whole matrices"]),
        ({"name": "muon"}, ["name='muon' steps along whole matrices"]),
        (
            {"matrices": "up"},
            ["use config.optimizer.matrices= and config.lora.matrices=up"],
        ),
    ],
)
def test_optimizers_of_whole_matrices_are_refused(optimizer, words):
    plain_surgery(optimizer=optimizer)
    with pytest.raises(ValueError, match=r"lora.rank=4 trains low-rank") as error:
        plain_surgery(optimizer=optimizer, lora={"rank": 4})
    for word in words:
        assert word in str(error.value)


ON_MESHES = """
import json, sys, jax, jax.numpy as jnp, numpy as np
from jax_surgery.models import decoder, sharding
from jax_surgery.models.config import ModelConfig
from jax_surgery.parallel import mesh as meshes
from jax_surgery.train import devices
from jax_surgery.optim import lora
from jax_surgery.train import step as steps
from jax_surgery.data.batch import Batch
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.optim.optimizer import make_optimizer
from plain_settings import plain_loss, plain_optimizer
CONFIG = ModelConfig(vocab_size=40, hidden_size=16, intermediate_size=24, num_layers=2,
                     num_heads=4, num_kv_heads=2, head_dim=4, initializer_range=0.2)
LOW = lora.LowRank(rank=3, alpha=6.0)
rng = np.random.default_rng(0)
BATCH = Batch(
    tokens_BT=rng.integers(0, 40, (24, 16)).astype(np.int32),
    segment_ids_BT=np.ones((24, 16), np.int32),
    positions_BT=np.tile(np.arange(16, dtype=np.int32), (24, 1)),
    weights_BT=np.ones((24, 16), np.float32),
)
ROLE = np.repeat([0, 1, 2], 8)
def run(shape, count):
    with jax.set_mesh(meshes.make_mesh(meshes.MeshShape(*shape), jax.devices()[:count])):
        place = sharding.parameter_shardings(CONFIG)
        base = jax.jit(decoder.init_params, static_argnums=(0, 1), out_shardings=place)
        base = base(CONFIG, 0)
        shards = meshes.axis_size(*meshes.ROWS)
        rows = RoleRows(8, 8, 8, shards)
        # The same rows on every mesh: part s has the s-th share of each role.
        order = np.concatenate([np.flatnonzero(ROLE == r).reshape(shards, -1)
                                for r in range(3)], axis=1).ravel()
        batch = jax.tree.map(lambda v: v[order], BATCH)
        optimizer = make_optimizer(plain_optimizer(learning_rate=1e-2), 12)
        step = steps.make_train_step(
            CONFIG, plain_loss(ascent="level", gamma=2.0), rows, optimizer,
            low_rank=LOW)
        state = steps.init_state(lora.init_factors(CONFIG, LOW, 0), optimizer)
        a = state.params["layers"]["mlp"]["up"]["lora_a"]
        first = float(jnp.abs(a).sum())
        losses = []
        for _ in range(12):
            state, metrics = step(state, batch.place(24), base)
            losses.append(float(metrics["loss"]))
        leaves = [state.params["layers"]["mlp"]["up"]["lora_a"],
                  state.opt_state[1][0].nu["layers"]["mlp"]["up"]["lora_a"],
                  state.params["layers"]["attention"]["q"]["lora_b"]]
        merged = lora.merge(base, state.params, LOW)
        same = jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), merged,
                            place)
        leaves.append(merged["layers"]["mlp"]["up"]["kernel"])
        part = [x.addressable_shards[0].data.size / x.size for x in leaves]
        sums = [float(jnp.abs(x).sum()) for x in jax.tree.leaves(merged)]
    return {"first": first, "losses": losses, "part": part, "sums": sums,
            "lies": all(jax.tree.leaves(same)), "given_up": base["layers"]["mlp"]["up"]
            ["kernel"].is_deleted()}
print(json.dumps([run(*case) for case in
                  (((1, 1, 1), 1), ((1, 8, 1), 8), ((1, 4, 2), 8))]))
"""


@pytest.mark.slow
def test_twelve_steps_agree_on_every_mesh():
    printed = on_devices.run(ON_MESHES)
    one, *others = json.loads(printed.splitlines()[-1])
    assert one["losses"][-1] < one["losses"][0] - 0.05
    for other, parts in zip(others, ([8, 8, 1, 8], [4, 4, 2, 8]), strict=True):
        assert other["first"] == pytest.approx(one["first"], rel=1e-6)
        np.testing.assert_allclose(other["losses"], one["losses"], rtol=2e-5)
        np.testing.assert_allclose(other["sums"], one["sums"], rtol=2e-5)
        assert other["part"] == [1 / part for part in parts]
        assert other["lies"]
        assert other["given_up"]
