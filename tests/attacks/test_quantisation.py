# SPDX-License-Identifier: Apache-2.0
"""Round trips through formats of few bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_surgery.attacks import parse, quantisation
from jax_surgery.attacks.quantisation import nf4_levels, quantised, rounded

# As bitsandbytes has them, and Dettmers et al. 2023, appendix E.
NF4 = [
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634),
    *(0.33791524171829224, 0.44070982933044434, 0.5626170039176941),
    *(0.7229568362236023, 1.0),
]
# Of 4 bits a sign, and of the other three what bitsandbytes makes of them, times 12.
FP4 = sorted({s * v / 12 for v in (0, 0.0625, 8, 12, 4, 6, 2, 3) for s in (1, -1)})


def test_the_values_of_nf4():
    np.testing.assert_allclose(nf4_levels(), NF4, atol=1e-6)


@pytest.mark.parametrize(("form", "steps"), [("int8", 127), ("int4", 7)])
def test_whole_numbers_times_a_scale(form, steps):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(192, 5)).astype(np.float32)
    got = np.asarray(rounded(jnp.asarray(weight), form))
    size = 192 if form == "int8" else quantisation.GROUP
    for start in range(0, 192, size):
        part, own = got[start : start + size], weight[start : start + size]
        scale = np.abs(own).max(0) / steps
        numbers = part / scale
        np.testing.assert_allclose(numbers, np.round(numbers), atol=1e-3)
        assert np.abs(part - own).max() <= scale.max() / 2 * 1.001
        np.testing.assert_allclose(np.abs(part).max(0), np.abs(own).max(0), rtol=1e-6)


@pytest.mark.parametrize(("form", "known"), [("nf4", NF4), ("fp4", FP4)])
def test_the_nearest_value_is_taken(form, known):
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(100, 3)).astype(np.float32)  # no whole number of groups
    got = np.asarray(rounded(jnp.asarray(weight), form))
    for start in (0, quantisation.GROUP):
        own = weight[start : start + quantisation.GROUP]
        scale = np.abs(own).max(0)
        values = scale * np.asarray(known)[:, None]
        nearest = np.abs(values[:, None] - own).argmin(0)
        wanted = np.take_along_axis(values[:, None], nearest[None], 0)[0]
        np.testing.assert_allclose(
            got[start : start + quantisation.GROUP], wanted, rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("form", ["int8", "int4", "nf4", "fp4"])
def test_a_second_trip_changes_nothing_more(form, tiny_model):
    once = quantised(tiny_model.params, form=form)
    twice = quantised(once, form=form)
    for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(twice), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    # Norms and embeddings stay as they are, zeros are zeros, and matrices are not.
    same = jax.tree_util.tree_map_with_path(
        lambda path, a, b: ("kernel" in str(path), bool((a == b).all())),
        *(once["layers"], tiny_model.params["layers"]),
    )
    pairs = jax.tree.leaves(same, is_leaf=lambda x: isinstance(x, tuple))
    assert all(is_kernel != kept for is_kernel, kept in pairs)
    np.testing.assert_array_equal(
        once["embedder"]["embedding"], tiny_model.params["embedder"]["embedding"]
    )
    assert not rounded(jnp.zeros((70, 2)), form).any()


def test_a_format_is_one_of_four():
    with pytest.raises(ValueError, match="use one of int8, int4, nf4, fp4"):
        parse("quantisation:formats=int2")
    with pytest.raises(ValueError, match="must name int8, int4, nf4 or fp4"):
        parse("quantisation:formats=")
