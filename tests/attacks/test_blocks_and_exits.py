# SPDX-License-Identifier: Apache-2.0
"""Blocks that are left out, and states that are read early."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_surgery.attacks import blocks, parse
from jax_surgery.attacks.base import Budget, Target
from jax_surgery.models import decoder
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.model import Model

CONFIG = ModelConfig(30, 16, 24, 3, 4, 2, 4, initializer_range=0.3)
GEMMA = ModelConfig(
    30, 16, 24, 3, 4, 2, 4, initializer_range=0.3, architecture="gemma2"
)
NO_LIMIT = Budget()
NOTHING = Target((), (), 16)


def model_of(config):
    return Model(decoder.init_params(config, 0), config, None, decoder.DEFAULT_COMPUTE)


def tried(spec, model, budget=NO_LIMIT):
    """The models that are asked, by label."""
    found = {}

    def watch(spent, model, *, label="", probes=None, **_):
        assert probes is None
        found[label] = model

    parse(spec)(model, NOTHING, budget, 0, watch)
    return found


def states(params, config, layers=None):
    """Final hidden states of a text, of the first layers alone where that is said."""
    tokens = jnp.arange(12)[None] % config.vocab_size
    if layers is not None:
        cut = jax.tree.map(lambda leaf: leaf[:layers], params["layers"])
        config = dataclasses.replace(config, num_layers=layers)
        params = params | {"layers": cut}
    return np.asarray(decoder.forward(params, config, tokens))


@pytest.mark.parametrize("config", [CONFIG, GEMMA], ids=["llama", "gemma2"])
def test_a_model_without_its_upper_layers_is_one_that_has_fewer(config):
    model = model_of(config)
    found = tried("exits", model)
    assert list(found) == ["", "read after layer 1", "read after layer 2"]
    for kept in (1, 2):
        got = states(found[f"read after layer {kept}"].params, config)
        np.testing.assert_allclose(
            got, states(model.params, config, kept), rtol=1e-5, atol=1e-5
        )


def test_each_part_of_each_layer_is_left_out_once():
    model = model_of(CONFIG)
    found = tried("blocks", model)
    assert len(found) == 1 + 3 * len(blocks.WRITES)
    last = states(found["layer 3 without both"].params, CONFIG)
    np.testing.assert_allclose(last, states(model.params, CONFIG, 2), atol=1e-5)
    for label, (block, matrix) in (
        ("layer 2 without its attention", ("attention", "o")),
        ("layer 2 without its MLP", ("mlp", "down")),
    ):
        params = found[label].params
        kernel = params["layers"][block][matrix]["kernel"]
        own = model.params["layers"][block][matrix]["kernel"]
        assert not kernel[1].any() and own[1].any()
        # Nothing else is another one.
        same = jax.tree.map(lambda a, b: bool((a == b).all()), params, model.params)
        assert sum(not leaf for leaf in jax.tree.leaves(same)) == 1
        np.testing.assert_array_equal(kernel[::2], own[::2])


def test_biases_go_too():
    config = dataclasses.replace(CONFIG, biases=("o", "down"))
    model = model_of(config)
    filled = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf + 1 if "bias" in str(path[-1]) else leaf, model.params
    )
    found = tried("exits:last=1", model.with_params(filled))
    assert list(found) == ["", "read after layer 2"]
    got = states(found["read after layer 2"].params, config)
    np.testing.assert_allclose(got, states(filled, config, 2), atol=1e-5)


def test_some_of_them_alone():
    model = model_of(CONFIG)
    assert list(tried("blocks:parts=mlp,last=2", model)) == [
        "",
        "layer 2 without its MLP",
        "layer 3 without its MLP",
    ]
    assert len(tried("blocks", model, Budget(steps=4))) == 5
    with pytest.raises(ValueError, match=r"blocks:last=-1.*must be 0"):
        parse("blocks:last=-1")
    with pytest.raises(ValueError, match=r"exits:last=-1 must be 0"):
        parse("exits:last=-1")
    with pytest.raises(ValueError, match="use one of attention, mlp, layer"):
        parse("blocks:parts=norm")
