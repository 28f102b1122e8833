# SPDX-License-Identifier: Apache-2.0
"""The plan: compiled for slices that are not here; the 7B step's memory and traffic."""

import dataclasses
import json
import pathlib

import pytest
from plain_settings import plain_compute
from plan_cases import GB, GIB, called, needs_libtpu, planned

from jax_surgery.models.published import SIZES
from jax_surgery.plan import ask, lowering, neighbours, report
from jax_surgery.runs import plan

ROOT = pathlib.Path(__file__).parents[2]


@needs_libtpu
def test_the_7b_step_on_16_chips_fits_and_reduce_scatters():
    """The targets: 10.5 GiB, 27 GB gathered, no gradient all-reduced in full."""
    asked = plan.ask_memory(planned())
    assert asked["fits"] and asked["needs"] < 10.5 * GIB
    parts = asked["memory"]
    assert sum(v for k, v in parts.items() if k != "total") == parts["total"]
    weights = 6_738_415_616 * 4 / 16
    assert parts["parameters"] == pytest.approx(weights, rel=0.01)
    assert parts["optimizer"] == pytest.approx(2 * weights, rel=0.01)
    traffic = asked["collectives"]
    # In bfloat16 the weights are 13.5 GB, gathered twice: once for the forward pass,
    # once for the backward pass with its recomputation.
    assert 25 * GB < traffic["all-gather"] < 27 * GB
    assert traffic.get("all-reduce", 0) < 0.01 * GB  # norms' gradients, and scalars
    # A reduce-scatter overlapped with its product is a ring of permutes.
    assert 13 * GB < traffic["collective-permute"] < 15 * GB
    # Products are computed once more than the 6 operations a weight and token.
    ideal = asked["counted_flops"] / (16 * 197e12)
    assert ideal < asked["seconds_of_products"] < 4 / 3 * ideal
    layers = 32
    assert asked["kernel_calls"]["splash_mha_fwd_segmented_residuals"] == 2 * layers


@pytest.mark.slow
@needs_libtpu
def test_moments_in_bfloat16_and_longer_rows_fit_too():
    half = neighbours.changed(planned(), {"surgery.optimizer.moment_dtype": "bfloat16"})
    assert plan.ask_memory(half)["needs"] < 9.0 * GIB
    long = neighbours.changed(planned(), {"surgery.data.context": 4096})
    assert plan.ask_memory(long)["needs"] < 13.5 * GIB


@needs_libtpu
def test_what_is_wrong_with_its_surgery_is_named_as_the_plan_does(tmp_path):
    wrong = neighbours.changed(planned(), {"surgery.optimizer.first_layer": 99})
    with pytest.raises(ValueError, match="^config.surgery.optimizer.first_layer=99: "):
        plan.run(wrong, str(tmp_path))


@needs_libtpu
def test_what_does_not_fit_is_said_with_what_would(tmp_path, capsys, monkeypatch):
    asked = planned(topology="v5e:2x2", fast=True)
    first = list(neighbours.neighbours(asked))[:2]  # the others take as long
    monkeypatch.setattr(neighbours, "neighbours", lambda _: first)
    results = plan.run(asked, str(tmp_path))
    printed = capsys.readouterr().out
    assert not results["fits"] and results["needs"] > results["has"]
    assert "DOES NOT FIT" in printed
    flags = {n["flags"]: n for n in results["neighbours"]}
    assert flags["--config.topology=v5e:2x4"]["fits"]
    assert "What fits with one change: --config." in printed
    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved["neighbours"] == results["neighbours"]
    assert (tmp_path / "memory.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
@needs_libtpu
def test_a_step_is_compiled_to_its_end_and_two_slices_meet_over_the_network(tmp_path):
    small = planned("surgery", model="embedded", topology="v5e:2x2", neighbours="no")
    small = dataclasses.replace(small, num_slices=2)
    results = plan.run(small, str(tmp_path))
    assert results["chips"] == 8 and results["mesh"] == {"data": 2, "fsdp": 4, "tp": 1}
    assert results["rows"] == {"unlearn": 8, "update": 8, "retain": 8, "shards": 8}
    assert any("between slices" in kind for kind in results["collectives"])
    speed = results["speed"]
    assert speed["seconds_at_least"] > speed["ideal_seconds"] > 0
    assert speed["mfu_at_most"] < 1


def test_neighbours_change_one_thing_and_say_its_flag():
    pairs = dict(neighbours.neighbours(planned(rows=2)))
    assert pairs["--config.topology=v5e:2x4"].topology == "v5e:2x4"
    other = pairs["--config.surgery.optimizer.name=adafactor"]
    assert other.surgery.optimizer.name == "adafactor"
    assert pairs["--config.rows=4"].rows == 4
    split = pairs["--config.rows=1 --config.surgery.accumulate=2"]
    assert (split.rows, split.surgery.accumulate) == (1, 2)
    assert "--config.surgery.compute.remat=context" in pairs
    assert not any(p == planned(rows=2) for p in pairs.values())


def test_model_flops_are_six_a_weight_and_token_and_causal_attention():
    config, context = SIZES["llama2_7b"], 2048
    rows, tokens = 48, 48 * context
    weights = 6_738_415_616 - 2 * 32000 * 4096 - 65 * 4096 + 32000 * 4096
    attention = 6 * config.num_layers * context * 4096  # half of 12 L T N H
    wanted = tokens * (6 * weights + attention)
    counted = called("step", planned(rows=rows // 3)).flops  # of each role
    assert counted == pytest.approx(wanted, 1e-6)
    full = ask.kernel_flops(config, tokens, context, plain_compute(remat="full"))
    kept = ask.kernel_flops(config, tokens, context, plain_compute(remat="context"))
    assert full / kept == pytest.approx(4.5 / 3.5)
    assert kept == pytest.approx(3.5 * tokens * config.num_layers * 2 * context * 4096)


@pytest.mark.parametrize(
    "model, message",
    [
        ("llama2_8b", "did you mean"),
        ("./nowhere", "does not exist"),
    ],
)
def test_unknown_models_are_an_error(model, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        lowering.architecture_of(model)


def test_advice_prefers_the_same_slice():
    def near(flags, chips, fits):
        return {"flags": flags, "chips": chips, "fits": fits, "needs": 1, "has": 2}

    base = {"program": "step", "programs": {"step": {}}, "largest": "step"}
    base |= {"fits": False, "chips": 16, "needs": 3 * GIB, "has": 2 * GIB}
    base["neighbours"] = []
    assert "1.00 GiB per chip too much. Take a larger slice" in report.advice(base)
    base["neighbours"] = [near("bigger", 32, True), near("same", 16, True)]
    assert report.advice(base).endswith("same")
    base |= {"fits": True, "needs": GIB, "neighbours": [near("smaller", 8, True)]}
    assert "1.00 GiB (50%) of each chip free" in report.advice(base)
    assert report.advice(base).endswith("smaller")
