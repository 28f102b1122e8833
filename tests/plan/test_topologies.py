# SPDX-License-Identifier: Apache-2.0
"""TPU slices by name: what is known of them, and their devices where libtpu is."""

import importlib.util
import math

import pytest
import tpu_programs

from jax_surgery.plan import topologies


def test_names_are_generation_and_shape_and_the_chips_are_its_product():
    names = [s.name for s in topologies.slices()]
    assert len(set(names)) == len(names)
    assert {"v5e:4x4", "v4:2x2x2", "v5p:4x4x4", "v6e:8x8"} <= set(names)
    for name in names:
        found = topologies.find(name)
        assert found.name == name
        sizes = name.partition(":")[2].split("x")
        assert found.chips == math.prod(map(int, sizes))
        assert len(sizes) == (2 if found.generation.name in ("v5e", "v6e") else 3)


def test_several_slices_multiply_the_chips():
    one, three = topologies.find("v5e:4x4"), topologies.find("v5e:4x4", 3)
    assert three.chips == 3 * one.chips == 48
    assert three.peak_flops == 48 * 197e12
    assert three.hbm_bytes == one.hbm_bytes == 15.75 * 2**30
    with pytest.raises(ValueError, match="num_slices is 0; there must be at least 1"):
        topologies.find("v5e:4x4", 0)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("v5e-16", "v5e:4x4"),  # chips
        ("v5p-16", "v5p:2x2x2"),  # cores, two a chip
        ("v4-8", "v4:2x2x1"),
        ("v5litepod-256", "v5e:16x16"),
        ("v5e:32x32", "v5e:16x16"),  # libtpu takes it; no such slice exists
        ("v5e:8x4", "v5e:4x8"),
        ("v6e:4x5", "v6e:4x4"),
        ("v4:4x4", "v4:2x2x4"),
        ("v6:4x4", "v6e:4x4"),
    ],
)
def test_an_unknown_name_says_the_nearest_and_all(name, near):
    with pytest.raises(ValueError) as error:
        topologies.find(name)
    message = str(error.value)
    assert f"topology {name!r}" in message
    assert f"did you mean {near}" in message
    assert "v5p: 2x2x1, 2x2x2, 2x2x4" in message


def test_a_name_that_is_like_none_still_says_all():
    with pytest.raises(ValueError, match=r"slice\. Known: v4: 2x2x1, "):
        topologies.find("h100")


def test_neighbours_are_the_next_slices_of_the_generation():
    middle = topologies.find("v5e:4x4", 2)
    assert middle.smaller() == topologies.find("v5e:2x4", 2)
    assert middle.larger() == topologies.find("v5e:4x8", 2)
    assert topologies.find("v6e:1x1").smaller() is None
    assert topologies.find("v5p:8x16x16").larger() is None
    for known in topologies.slices():
        if larger := known.larger():
            assert larger.smaller() == known
            assert larger.chips > known.chips


def test_rings_are_where_the_hardware_has_them():
    def wrap(name):
        return topologies.find(name).wrap

    assert wrap("v5e:8x16") == (False, True, False)
    assert wrap("v6e:16x16") == (True, True, False)
    assert wrap("v5e:8x8") == wrap("v5p:2x4x4") == (False, False, False)
    assert wrap("v5p:4x4x4") == wrap("v4:4x4x8") == (True, True, True)


def test_without_libtpu_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"pip install '\.\[plan\]'"):
        topologies.prepare()


@tpu_programs.needs_libtpu
def test_the_compiler_knows_every_slice_and_calls_a_chip_one_device():
    names = [s.name for s in topologies.slices() if s.chips <= 64]
    counts = tpu_programs.run(
        *(["count_devices", name] for name in names),
        ["count_devices", "v5e:2x2", 2],
    )
    expected = [{"devices": topologies.find(n).chips, "slices": [0]} for n in names]
    assert counts == [*expected, {"devices": 8, "slices": [0, 1]}]


@tpu_programs.needs_libtpu
def test_memory_is_what_the_compiler_says_there_is():
    names = ["v4:2x2x1", "v5e:1x1", "v5p:2x2x1", "v6e:1x1"]
    found = tpu_programs.run(*(["too_large", name] for name in names))
    for name, of_chip in zip(names, found, strict=True):
        known = topologies.find(name).hbm_bytes
        assert of_chip["available"] == pytest.approx(known, abs=0.006 * 2**30), name
        assert of_chip["needed"] > 200 * 2**30
