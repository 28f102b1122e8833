# SPDX-License-Identifier: Apache-2.0
"""Tests of every architecture in the table; a new member needs no test of its own."""

import json

import architecture_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import on_devices
import pytest
from plain_settings import plain_optimizer
from quick_cases import few_of
from safetensors.numpy import load_file

from jax_surgery.checkpoints import hf_layout, hf_weights
from jax_surgery.models import (
    architectures,
    decoder,
    flops,
    layout,
    logprobs,
    output_head,
)
from jax_surgery.models import sharding as placement
from jax_surgery.models.architectures import ARCHITECTURES
from jax_surgery.models.generate import greedy_generate
from jax_surgery.optim.optimizer import make_optimizer

CONFIGS = {
    f"{name} {config.windows or 'whole context'}"
    f"{' tied' if config.tie_embeddings else ''}"
    f"{' biases' if config.biases else ''}": config
    for name in ARCHITECTURES
    for config in cases.configs(name)
}
# Tied ones with all that they can have: a Llama with biases, and Gemmas, whose layers
# are with and without a window, rotate differently, and cap scores and logits.
QUICK = [cases.configs(name)[1] for name in ("llama", "gemma2", "gemma3_text")]
SOME = few_of(CONFIGS, [name for name in CONFIGS if CONFIGS[name] in QUICK])
# One architecture of each layer and layout, with all that it can have.
KINDS = {(a.block, a.layout): name for name, a in reversed(ARCHITECTURES.items())}
TOKENS = np.random.default_rng(0).integers(0, 61, (2, 24))
SIZES = {"data": 1, "fsdp": 2, "tp": 2}


@pytest.fixture(scope="module", params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


@pytest.fixture(scope="module")
def params(config):
    return cases.params_of(config)


@pytest.fixture(scope="module")
def checkpoint(config, params, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    hf_weights.save_model(params, config, str(folder))
    return folder


def logits(params, config, *arrays):
    hidden = cases.forward(params, config, *map(jnp.asarray, arrays))
    return np.asarray(logprobs.logits(hidden, output_head.of(params, config)))


def test_logits_agree_with_transformers(config, params, checkpoint):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch")
    import transformers

    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        checkpoint, output_loading_info=True, dtype=torch.float32
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.num_parameters() == decoder.parameter_count(config)
    assert (
        architectures.from_hf(
            json.loads(model.config.to_json_string())
            | {"model_type": config.architecture}
        )
        == config
    )

    def wanted(tokens):
        with torch.no_grad():
            return model(torch.tensor(tokens)).logits.numpy()

    alone = [
        wanted(TOKENS),
        *(wanted(TOKENS[:, cut]) for cut in (slice(10), slice(10, 24))),
    ]
    found = logits(params, config, TOKENS)
    np.testing.assert_allclose(found, alone[0], rtol=1e-4, atol=1e-4)
    # Packed: two documents and padding in a row are the two documents.
    padded = np.pad(TOKENS, [(0, 0), (0, 3)])
    segments = np.array([[1] * 10 + [2] * 14 + [0] * 3] * 2)
    positions = np.array([[*range(10), *range(14), 0, 0, 0]] * 2)
    found = logits(params, config, padded, segments, positions)
    np.testing.assert_allclose(found[:, :10], alone[1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[:, 10:24], alone[2], rtol=1e-4, atol=1e-4)


def test_load_then_export_is_bit_exact(config, checkpoint, tmp_path):
    loaded, read = hf_weights.load_model(str(checkpoint), dtype=None)
    assert read == config
    hf_weights.save_model(loaded, read, str(tmp_path))
    first, second = (
        json.loads((f / "config.json").read_text()) for f in (checkpoint, tmp_path)
    )
    assert first == second
    assert first["model_type"] == config.architecture
    tensors, again = (
        load_file(f / "model.safetensors") for f in (checkpoint, tmp_path)
    )
    assert list(tensors) == list(again)
    assert all(tensors[name].tobytes() == again[name].tobytes() for name in tensors)


def test_every_parameter_has_a_row_that_says_its_shape_and_its_place(
    config, checkpoint
):
    abstract = decoder.abstract_params(config)
    rows = {row.path: row for row in architectures.layout_of(config)}
    leaves = {
        tuple(key.key for key in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(abstract)
    }
    assert set(leaves) == set(rows)
    placement.check(abstract, SIZES)
    specs = placement.specs(abstract, SIZES["fsdp"])
    for path, leaf in leaves.items():
        row = rows[path]
        stack = (config.num_layers,) * row.stacked
        assert leaf.shape == (*stack, *row.shape(config)), path
        assert hf_layout.leaf(specs, path) == row.spec
        assert row.path[-1] != "scale" or not any(row.spec)  # whole on every device
    held = load_file(checkpoint / "model.safetensors")
    assert {t.name: t.file_shape for t in hf_layout.tensors(config)} == {
        name: tensor.shape for name, tensor in held.items()
    }
    assert decoder.parameter_count(config) == sum(
        tensor.size for tensor in held.values()
    )


def test_operations_are_those_of_the_arrays(config, params):
    shapes = flops.matrix_shapes(config)
    blocks = params["layers"]
    for name, row in layout.matrices(architectures.of(config).layout).items():
        kernel = blocks[row.block][name]["kernel"]
        assert kernel.size == config.num_layers * np.prod(shapes[name])
    context = TOKENS.shape[1]
    spans = [window or context for window in config.layer_windows]
    products = sum(
        config.num_layers * rows * columns for rows, columns in shapes.values()
    ) + sum(2 * span * config.num_heads * config.head_dim for span in spans)
    head = output_head.kernel(params).size
    counted = flops.forward_flops(config, TOKENS.size, context)
    assert counted == 2 * TOKENS.size * (products + head)


@pytest.mark.parametrize("config", SOME, indirect=True)
def test_cached_generation_equals_uncached(config, params):
    # Their first nine tokens, which all share, are read once.
    prompts = [TOKENS[0, :n].tolist() for n in (10, 15, 20)]
    found = greedy_generate(params, config, prompts, 6, eos_id=-1, batch_rows=3)
    assert found == cases.uncached(params, config, prompts, 6)
    assert any(len(set(answer)) > 1 for answer in found)


@pytest.mark.parametrize("config", SOME, indirect=True)
def test_every_parameter_learns_and_norms_and_biases_do_not_decay(config, params):
    def loss(params):
        hidden = decoder.forward(params, config, TOKENS)
        return logprobs.logits(hidden, output_head.of(params, config)).std()

    gradients = jax.jit(jax.grad(loss))(params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients))
    choice = plain_optimizer("sgd", learning_rate=1.0, weight_decay=0.5, momentum=0.0)
    optimizer = make_optimizer(choice, 2)
    zeros = jax.tree.map(jnp.zeros_like, params)
    steps, _ = optimizer.update(zeros, optimizer.init(params), params)
    for path, step in jax.tree_util.tree_leaves_with_path(steps):
        decays = path[-1].key not in ("scale", "bias")
        assert bool(np.any(step)) == decays, path


ON_EIGHT = """
import json
import architecture_cases as cases, jax, jax.numpy as jnp, numpy as np
from jax_surgery.models import decoder, logprobs, output_head, sharding
from jax_surgery.parallel import mesh as meshes
tokens = np.random.default_rng(0).integers(0, 61, (4, 24))
segments = np.array([[1] * 9 + [2] * 12 + [0] * 3] * 4)
positions = np.array([[*range(9), *range(12), 0, 0, 0]] * 4)
def loss(params, config):
    hidden = decoder.forward(params, config, tokens, segments, positions)
    logits = logprobs.logits(hidden, output_head.of(params, config))
    return jnp.square(jnp.sin(logits)).mean()
def run(config, count):
    shape = meshes.MeshShape(data=1, fsdp=count // 2 or 1, tp=2 if count > 1 else 1)
    with jax.set_mesh(meshes.make_mesh(shape, jax.devices()[:count])):
        params = sharding.place(cases.params_of(config))
        value, gradients = jax.jit(jax.value_and_grad(loss), static_argnums=1)(
            params, config)
        return float(value), jax.tree.map(np.asarray, gradients)
for name in {names}:
    config = cases.configs(name)[-1]
    (one, first), (eight, second) = run(config, 1), run(config, 8)
    errors = jax.tree.map(lambda a, b: float(abs(a - b).max()), first, second)
    sizes = max(float(abs(a).max()) for a in jax.tree.leaves(first))
    print(json.dumps([name, one, eight, max(jax.tree.leaves(errors)) / sizes]))
"""


@pytest.mark.slow
def test_one_device_equals_eight():
    # 16 columns over 4 devices, 2 key-value heads over 2.
    names = sorted(KINDS.values())
    printed = on_devices.run(ON_EIGHT.replace("{names}", str(names))).splitlines()
    found = {name: rest for name, *rest in map(json.loads, printed)}
    assert sorted(found) == names
    for one, eight, error in found.values():
        assert eight == pytest.approx(one, rel=1e-5)
        assert error < 1e-4
