# SPDX-License-Identifier: Apache-2.0
"""The run `learn`: new tasks at a low rank, and by LoRA's adapters."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from subspace_run_cases import edit_of, go, work_of

from jax_surgery.benchmarks import suite
from jax_surgery.checkpoints import hf_weights, peft_adapter
from jax_surgery.methods.subspace.stage import Stage
from jax_surgery.methods.subspace.text import GUARDED
from jax_surgery.optim import lora
from jax_surgery.train.metrics_file import read_metrics

OPTIMISED = True  # see conftest


@pytest.fixture(scope="module")
def learned(folder, own):
    return go(folder / "learned", "learn", **own), folder / "learned"


@pytest.mark.slow
def test_a_new_task_is_learned_by_a_change_of_low_rank(learned):
    results, workdir = learned
    tasks = results["tasks"]
    target = tasks["dict_c"]
    assert (target["role"], target["goal"], target["removed"]) == ("target", "up", None)
    assert target["before"]["value"] < 0.1 and target["after"]["value"] >= 0.95
    assert all(tasks[name]["drop"] <= 0.02 for name in tasks if name != "dict_c")
    factors = edit_of(workdir).factors
    assert {a.shape[1] for a, _ in factors.values()} == {8}
    ranks = {int(np.linalg.matrix_rank(a @ b, tol=1e-4)) for a, b in factors.values()}
    assert max(ranks) == 8
    base, _ = hf_weights.load_model(str(suite.MODEL))
    after, _ = hf_weights.load_model(str(workdir / "model"))
    np.testing.assert_array_equal(*(p["embedder"]["embedding"] for p in (base, after)))


@pytest.mark.slow
def test_what_an_earlier_stage_taught_is_guarded_as_high_as_it_is(learned, own):
    """In the model before the run nothing of it was there to be retained."""
    ours = work_of(own)
    ours = dataclasses.replace(ours, how=dataclasses.replace(ours.how, run="learn"))
    params, _ = hf_weights.load_model(str(learned[1] / "model"))

    def bounds(now):
        stage = Stage(ours, now, ["dict_a"], ["dict_c"], set(), {}, "")
        batches = stage.batches()
        batch = batches.batch(next(batches.stream()))
        kept = np.asarray(batch.token_weights_BT) < 0
        kept[: ours.how.tasks.rows] = False  # the targets' rows
        return np.asarray(batch.target_log_odds_BT)[kept]

    before, after = bounds(ours.model.params), bounds(params)
    assert len(before) == len(after) > 20
    assert before.max() < 0
    assert (after >= before).all() and np.median(after - before) > 4
    assert 2 < after.max() <= GUARDED


LORA = {
    "lora.rank": 8, "rounds.matrices": "q,v,up,down", "rounds.number": 4,
    "method": "subspace:loss=cross_entropy,temperature=1,guard=0",
    "rounds.stop": 1.0, "optimizer.learning_rate": 1e-2,
}  # fmt: skip


@pytest.fixture(scope="module")
def adapted(folder, own):
    return go(folder / "lora", "learn", **own | LORA), folder / "lora"


@pytest.mark.slow
def test_an_adapter_is_written_and_the_model_is_base_plus_adapter(adapted):
    workdir = adapted[1]
    base, config = hf_weights.load_model(str(suite.MODEL))
    adapter = peft_adapter.load_adapter(str(workdir / "adapter"), config)
    assert adapter[1:] == (8, 16.0, ("q", "v", "up", "down"))
    written = json.loads((workdir / "adapter" / "adapter_config.json").read_text())
    assert written["r"] == 8 and written["peft_type"] == "LORA"
    low = lora.LowRank(8, 16.0, "q,v,up,down")
    wanted = lora.merge(base, adapter.factors, low)
    found, _ = hf_weights.load_model(str(workdir / "model"))
    base, _ = hf_weights.load_model(str(suite.MODEL))
    # The file is bfloat16: each weight is a neighbour of the sum, drawn so that the
    # change is there on average.
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=2**-7, atol=1e-6)
        spread = float(np.abs(one - other).max())
        assert abs(float((one - other).mean())) <= 0.1 * spread
    for name, block, moves in (("up", "mlp", True), ("gate", "mlp", False)):
        one, other = (p["layers"][block][name]["kernel"] for p in (found, base))
        assert (float(np.abs(one - other).max()) > 1e-3) == moves


@pytest.mark.slow
def test_a_run_goes_on_from_an_adapter(adapted, folder, own):
    """Its scores before are those of base and adapter, and training goes on there."""
    results, workdir = adapted
    fields = {**own, **LORA, "adapter": str(workdir / "adapter"), "seed": 1}
    further = go(folder / "further", "learn", **fields)
    target = further["tasks"]["dict_c"]
    assert target["before"] == results["tasks"]["dict_c"]["after"]
    losses = [
        [row["loss"] for row in read_metrics(run / "stages" / "1" / "metrics.jsonl")]
        for run in (workdir, folder / "further")
    ]
    assert [len(found) for found in losses] == [4, 4]
    assert losses[1][0] < 0.9 * losses[0][0] and losses[1][-1] < losses[0][-1]
    assert target["after"]["value"] > target["before"]["value"]
    with pytest.raises(ValueError, match="give it --config.lora.rank=8 .*=q,v,up,down"):
        go(folder / "wrong", "learn", **fields | {"lora.rank": 4})
