# SPDX-License-Identifier: Apache-2.0
"""The programs beside the step: the statistics, and a subspace removal."""

import json
import types

import pytest
from plan_cases import GIB, called, needs_libtpu, planned

from jax_surgery.plan import ask, lowering, neighbours, programs, report
from jax_surgery.runs import plan

MOMENTS = 32 * (3 * 4096**2 + 11008**2) * 4  # bytes of all of a 7B model's, 20.5 GiB


def preconditioned(**changes):
    return neighbours.changed(planned(**changes), {"surgery.optimizer.name": "natural"})


def test_the_process_that_compiles_has_the_settings_of_the_plan(tmp_path, monkeypatch):
    """Also those that no config gives."""
    settings, seen = planned(rows=3), []
    command = lowering.write(settings, tmp_path / "settings", "moments")
    monkeypatch.setattr(lowering.topologies, "prepare", lambda: None)
    monkeypatch.setattr(lowering, "mesh_of", lambda settings: None)
    compiled = types.SimpleNamespace(compile=lambda: None)
    monkeypatch.setattr(
        lowering, "lower", lambda *given: seen.append(given[:2]) or compiled
    )
    lowering.main(*command[3:])
    assert seen == [("moments", settings)]


@needs_libtpu
def test_a_preconditioned_7b_step_fits_16_chips_with_no_moment_or_factor_whole(
    tmp_path, capsys
):
    """They were never compiled, and left 22 GB of roots whole on every chip."""
    results = plan.run(preconditioned(fast=True), str(tmp_path))
    assert results["fits"] and list(results["programs"]) == ["step", "moments", "ridge"]
    assert results["needs"] == max(p["needs"] for p in results["programs"].values())
    for name in ("moments", "ridge"):
        parts = results["programs"][name]["memory"]
        assert parts["statistics"] == pytest.approx(MOMENTS / 16, rel=0.01)
        # The model and the state of the steps lie there as well.
        assert parts["parameters"] == results["memory"]["parameters"]
        assert parts["optimizer"] == results["memory"]["optimizer"]
        assert parts["optimizer"] >= MOMENTS / 16
        assert parts["temporaries"] < 4 * GIB
        assert sum(v for k, v in parts.items() if k != "total") == parts["total"]
    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved["programs"]["ridge"]["needs"] == results["programs"]["ridge"]["needs"]
    printed = capsys.readouterr().out
    assert "ridge" in printed and "The largest program is" in printed


@needs_libtpu
def test_moments_of_outputs_fit_16_chips_with_none_whole():
    """Those of all seven matrices of a 7B model: 51 GB."""
    whole = 32 * (5 * 4096**2 + 2 * 11008**2) * 4
    settings = neighbours.changed(
        planned(fast=True), {"surgery.optimizer.name": "kfac"}
    )
    for name in ("output_moments", "output_ridge"):
        found = ask.ask(name, settings, lowering.architecture_of(settings.model))
        parts = found["memory"]
        assert parts["statistics"] == pytest.approx((MOMENTS + whole) / 16, rel=0.01)
        assert sum(v for k, v in parts.items() if k != "total") == parts["total"]
        assert found["fits"] and parts["temporaries"] < 8 * GIB


@needs_libtpu
def test_the_7b_round_fits_16_chips_with_no_moment_whole():
    settings = planned(program="subspace", fast=True)
    found = ask.ask("round", settings, lowering.architecture_of(settings.model))
    assert found["fits"] and found["needs"] < 6 * GIB
    parts = found["memory"]
    assert sum(v for k, v in parts.items() if k != "total") == parts["total"]
    assert parts["kept tasks"] == pytest.approx(MOMENTS / 16, rel=0.01)
    assert parts["parameters"] == pytest.approx(6_738_415_616 * 4 / 16, rel=0.03)


@needs_libtpu
@pytest.mark.parametrize("model", ["mistral_7b_v0.1", "qwen3_8b"])
def test_other_architectures_are_planned_by_name(model):
    settings = planned(model=model, fast=True)
    found = ask.ask("step", settings, lowering.architecture_of(model))
    assert found["fits"] and sum(found["kernel_calls"].values())


def test_a_plain_step_has_one_program():
    assert programs.names_of(planned()) == ("step",)
    natural = ("step", "moments", "ridge")
    assert programs.names_of(preconditioned()) == natural
    both = neighbours.changed(planned(), {"surgery.optimizer.name": "kfac"})
    assert programs.names_of(both) == (*natural, "output_moments", "output_ridge")


def test_a_step_reads_what_layers_that_never_move_give_where_that_is_cached():
    upper = {"surgery.optimizer.first_layer": -1, "surgery.optimizer.matrices": "up"}
    for reference, there in (("live", False), ("cached", True)):
        changes = upper | {"surgery.reference": reference}
        settings = neighbours.changed(planned(rows=2), changes)
        call = called("step", settings)
        lower = call.resident["batch"].lower_BTD
        assert (lower is not None) == there
        if there:
            assert lower.shape[:2] == call.resident["batch"].tokens_BT.shape
        assert call.arguments[1].lower_BTD is lower


def test_the_programs_move_what_the_optimizer_names():
    settings = planned(program="subspace")
    config = lowering.architecture_of(settings.model)
    assert len(programs.trainable_of(settings, config).matrices) == 7
    some = neighbours.changed(settings, {"surgery.optimizer.matrices": "up,down"})
    assert programs.trainable_of(some, config).matrices == ("up", "down")


def test_unknown_programs_are_an_error():
    with pytest.raises(ValueError, match=r"config.program='steps'"):
        planned(program="steps")


def test_a_removal_is_not_tried_with_other_optimizers():
    flags = dict(neighbours.neighbours(planned(program="subspace")))
    assert "--config.topology=v5e:2x4" in flags
    assert not any("optimizer" in name or "reference" in name for name in flags)


def test_advice_names_the_largest_program_and_what_to_change():
    results = {"largest": "round", "needs": 3 * GIB, "has": 2 * GIB, "fits": False}
    results |= {"program": "subspace", "programs": {"moments": {}, "round": {}}}
    results |= {"neighbours": [], "chips": 4}
    text = report.advice(results)
    assert "round: 1.00 GiB per chip too much" in text and "config.topology" in text
    assert "optimizer.matrices" in text
    results |= {"needs": GIB, "fits": True}
    assert "1.00 GiB (50%) of each chip free" in report.advice(results)


def test_operations_counted_from_shapes():
    def counted(name, rows=16):
        return called(name, planned(program="subspace", rows=rows)).flops

    assert counted("ridge") == 32 * 2 * (3 * 4096**3 + 11008**3)
    weights = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert counted("factors") == 6 * 2 * weights * 80
    # Without what tokens take the solves are left: 4 inputs^2 outputs of each matrix.
    narrow = 4 * 4096**3 + 2 * 4096**2 * 11008
    solves = 2 * counted("round", 8) - counted("round", 16)
    assert solves == pytest.approx(32 * 4 * (narrow + 11008**2 * 4096), rel=1e-9)
    # What a forward pass does and 32 squares of inputs, 2 per token each.
    squares = 32 * (3 * 4096**2 + 11008**2)
    least = 2 * 16 * 2048 * (weights + squares)
    assert least < counted("moments") < 1.1 * least
