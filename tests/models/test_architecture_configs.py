# SPDX-License-Identifier: Apache-2.0
"""What `config.json` files of each architecture say, and what is refused."""

import copy
import dataclasses
import itertools

import architecture_cases as cases
import jax
import numpy as np
import pytest
from plain_settings import plain_compute
from quick_cases import few_of

from jax_surgery.models import architectures, decoder
from jax_surgery.models.architectures import ARCHITECTURES, from_hf, to_hf
from jax_surgery.models.layout import row
from jax_surgery.models.rope import LinearScaling

# Fields of published files: Mistral 7B v0.1 and v0.3, Ministral 8B, Qwen3 8B, Gemma.
SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
}
MISTRAL = SIZES | {"model_type": "mistral", "num_key_value_heads": 2}
QWEN3 = SIZES | {"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 8}
GEMMA2 = SIZES | {"model_type": "gemma2", "num_key_value_heads": 2}
GEMMA3 = GEMMA2 | {"model_type": "gemma3_text", "sliding_window": 7}
SLIDING, FULL = "sliding_attention", "full_attention"
LINEAR = {"rope_type": "linear", "factor": 8.0}
WINDOW = {"use_sliding_window": True, "sliding_window": 7}


@pytest.mark.parametrize(
    "raw, windows",
    [
        (MISTRAL | {"sliding_window": 7}, (7, 7, 7, 7)),
        (MISTRAL, (4096,) * 4),  # transformers' default
        (MISTRAL | {"sliding_window": None}, ()),
        (
            MISTRAL | {"sliding_window": 7, "layer_types": [FULL, SLIDING] * 2},
            (0, 7, 0, 7),
        ),
        (MISTRAL | {"sliding_window": 7, "layer_types": [FULL] * 4}, ()),
        (QWEN3 | {"sliding_window": 7}, ()),  # not used
        (QWEN3 | WINDOW | {"max_window_layers": 3}, (0, 0, 0, 7)),
        (QWEN3 | WINDOW, ()),  # from layer 28 on
        (QWEN3 | WINDOW | {"layer_types": [SLIDING, FULL] * 2}, (7, 0, 7, 0)),
        (GEMMA2, (4096, 0, 4096, 0)),
        (GEMMA2 | {"layer_types": [FULL] * 4}, ()),
        (GEMMA3, (7, 7, 7, 7)),  # every sixth has none
        (GEMMA3 | {"sliding_window_pattern": 3}, (7, 7, 0, 7)),
    ],
)
def test_windows_are_those_of_transformers(raw, windows):
    config = from_hf(raw)
    assert config.windows == windows
    assert from_hf(to_hf(config)) == config
    transformers = pytest.importorskip("transformers")
    name = (
        "ministral" if "layer_types" in raw and raw["model_type"] == "mistral" else ""
    )
    theirs = transformers.AutoConfig.for_model(
        **raw | ({"model_type": name} if name else {})
    )
    types = getattr(theirs, "layer_types", None) or [SLIDING] * 4
    wanted = [(theirs.sliding_window or 0) * (kind == SLIDING) for kind in types]
    assert list(config.layer_windows) == wanted


@pytest.mark.parametrize(
    "fields, everywhere, local",
    [
        ({}, (1e6, None), 1e4),
        ({"rope_theta": 50.0, "rope_local_base_freq": 20.0}, (50.0, None), 20.0),
        ({"rope_scaling": LINEAR}, (1e6, LinearScaling(8.0)), 1e4),
        # As newer files have them, with the base beside the scaling or in it.
        (
            {
                "rope_theta": 50.0,
                "rope_parameters": {FULL: LINEAR, SLIDING: {"rope_type": "default"}},
            },
            (50.0, LinearScaling(8.0)),
            1e4,
        ),
        (
            {
                "rope_parameters": {
                    FULL: LINEAR | {"rope_theta": 60.0},
                    SLIDING: {"rope_type": "default", "rope_theta": 30.0},
                }
            },
            (60.0, LinearScaling(8.0)),
            30.0,
        ),
    ],
)
def test_layers_rotate_as_in_transformers(fields, everywhere, local):
    raw = GEMMA3 | {"sliding_window_pattern": 3} | copy.deepcopy(fields)
    config = from_hf(raw)
    assert config.layer_ropes == (*[(local, None)] * 2, everywhere, (local, None))
    assert from_hf(to_hf(config)) == config
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoConfig.for_model(**raw).rope_parameters
    assert theirs[FULL]["rope_theta"] == everywhere[0]
    assert theirs[FULL].get("factor") == getattr(everywhere[1], "factor", None)
    assert theirs[SLIDING]["rope_theta"] == local


def test_absent_fields_are_what_transformers_takes():
    transformers = pytest.importorskip("transformers")
    for name in ARCHITECTURES:
        raw = SIZES | {"model_type": name}
        raw |= {"hidden_size": 64, "num_attention_heads": 32}
        theirs = transformers.AutoConfig.for_model(**raw)
        config = from_hf(raw)
        assert config.head_dim == getattr(theirs, "head_dim", None) or 64 // 32
        assert config.num_kv_heads == theirs.num_key_value_heads
        assert config.max_positions == theirs.max_position_embeddings
        assert config.rms_norm_eps == theirs.rms_norm_eps
        assert config.tie_embeddings == theirs.tie_word_embeddings
        ids = (config.bos_token_id, config.eos_token_id)
        assert ids == (theirs.bos_token_id, theirs.eos_token_id)


@pytest.mark.parametrize(
    "raw, message",
    [
        (GEMMA2 | {"hidden_activation": "gelu"}, "hidden_activation='gelu'; only"),
        (GEMMA2 | {"final_logit_softcapping": 0}, "softcapping=0; it must be a number"),
        (GEMMA2 | {"use_bidirectional_attention": True}, "attention=True; decoders"),
        (GEMMA3 | {"attn_logit_softcapping": 50.0}, "softcapping=50.0; only None"),
        (GEMMA3 | {"sliding_window_pattern": 0}, "sliding_window_pattern=0; it must"),
        (GEMMA3 | {"rope_parameters": {"rope_theta": 9.0}}, "has fields for 'full_"),
        (
            GEMMA3 | {"rope_parameters": {SLIDING: LINEAR}},
            "'linear' for 'sliding_attention'; only 'default'",
        ),
        ({"model_type": "gemma3"}, "config.json of a gemma3 has text_config=None"),
        (MISTRAL | {"attention_bias": True}, "attention_bias=True; only False"),
        (QWEN3 | {"rope_scaling": {"rope_type": "yarn"}}, "yarn .* lacks factor"),
        (QWEN3 | {"rope_scaling": {"type": "longrope"}}, "rope type 'longrope'"),
        (QWEN3 | {"layer_types": [SLIDING] * 4}, "no sliding window; give"),
        (MISTRAL | {"hidden_act": "gelu"}, "hidden_act='gelu'"),
        (
            MISTRAL | {"layer_types": ["chunked_attention"] * 4},
            "layer_types with 'chunked_attention'",
        ),
        (MISTRAL | {"layer_types": [SLIDING] * 3}, "one for each of num_layers=4"),
    ],
)
def test_what_an_architecture_lacks_is_named(raw, message):
    with pytest.raises(ValueError, match=message):
        from_hf(raw)


STRANGE = (
    None,
    True,
    0,
    -1,
    7,
    2.5,
    float("nan"),
    10**30,
    "x",
    [],
    ["x"],
    {},
    {"a": 1},
)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_whatever_a_field_holds_is_read_or_refused_in_one_line(name):
    """Every field that is read, with values of every kind; never another error."""
    config = cases.configs(name)[1]
    raw = to_hf(config) | {"rope_parameters": None, "layer_types": None}
    scaling = {"rope_type": "yarn", "factor": 2.0, "beta_fast": 9, "truncate": False}
    for field, value in itertools.product(raw, STRANGE):
        for changed in (raw, raw | {"rope_scaling": scaling} | WINDOW):
            try:
                read = from_hf(changed | {field: value})
            except ValueError as error:
                assert "\n" not in str(error)
            else:
                assert hash(read) and from_hf(to_hf(read)) == read
    for field, value in itertools.product(scaling, STRANGE):
        try:
            from_hf(raw | {"rope_scaling": scaling | {field: value}})
        except ValueError as error:
            assert "\n" not in str(error)


def test_constants_that_a_file_cannot_say_are_no_file():
    capped = dataclasses.replace(cases.BASE, final_softcap=30.0)
    with pytest.raises(ValueError, match="final_softcap=30.0: a llama has no such"):
        to_hf(capped)
    local = dataclasses.replace(cases.BASE, architecture="gemma3_text")
    with pytest.raises(ValueError, match="local_rope_theta=None: a gemma3_text has"):
        to_hf(local)


def test_windows_that_a_file_cannot_say_are_no_file():
    config = dataclasses.replace(cases.BASE, windows=(5, 0, 5))
    with pytest.raises(ValueError, match="a llama's layers see the whole context"):
        to_hf(config)
    mixed = dataclasses.replace(config, architecture="mistral", windows=(5, 0, 6))
    with pytest.raises(ValueError, match="one sliding_window; use one length"):
        to_hf(mixed)


def test_two_architectures_may_not_disagree_on_a_path(monkeypatch):
    strange = row("layers/attention/q/kernel", "wq", "DNH", "- tp -", "attention_in")
    other = dataclasses.replace(
        ARCHITECTURES["llama"], model_type="strange", layout=(strange,)
    )
    monkeypatch.setitem(ARCHITECTURES, "strange", other)
    with pytest.raises(
        ValueError, match="'strange' lays layers/attention/q/kernel out as"
    ):
        architectures.rows()


@pytest.mark.parametrize("remat", few_of(["none", "context", "full"], ["none"]))
@pytest.mark.parametrize("first", [0, 1])
def test_layers_with_and_without_a_window_have_one_gradient(remat, first):
    """However the backward pass is run, and where the layers are cut into two runs."""
    config = cases.configs("gemma3_text")[1]  # whose positions differ as well
    params = cases.params_of(config)
    tokens = np.random.default_rng(0).integers(0, 64, (2, 24))

    def loss(params, **options):
        return decoder.forward(params, config, tokens, **options).std()

    wanted = jax.jit(jax.grad(loss))(params)["layers"]["mlp"]["up"]["kernel"]
    options = {"compute": plain_compute(remat=remat), "first_trained_layer": first}
    gradient = jax.jit(jax.grad(lambda p: loss(p, **options)))(params)
    found = gradient["layers"]["mlp"]["up"]["kernel"]
    np.testing.assert_allclose(found[first:], wanted[first:], rtol=1e-4, atol=1e-6)
    assert not np.any(found[:first])
