# SPDX-License-Identifier: Apache-2.0
"""Unlearning depth and the logit lens: against patches of PyTorch's modules, and what must
be equal whatever the weights are."""

import dataclasses

import jax
import numpy as np
import pytest
from architecture_cases import logits_alone

from jax_surgery.attacks import depth
from jax_surgery.checkpoints import hf_weights
from jax_surgery.data.forms import parse_record
from jax_surgery.metrics.whole_texts import whole_texts
from jax_surgery.models.model import Model

CONTEXT = 32


def moved(model: Model, seed: int, scale: float = 0.1) -> Model:
    """The model with noise on every parameter."""
    rng = np.random.default_rng(seed)
    noisy = lambda leaf: leaf + np.float32(scale) * rng.normal(size=leaf.shape)
    return model.with_params(
        jax.tree.map(lambda leaf: np.asarray(noisy(leaf), np.float32), model.params)
    )


@pytest.fixture(scope="module")
def models(tiny_model) -> tuple[Model, Model, Model]:
    """The original, one that never knew, and the unlearned one."""
    original = Model(tiny_model.params, tiny_model.config, tiny_model.tokenizer)
    return original, moved(original, 1), moved(original, 2, 0.05)


@pytest.fixture(scope="module")
def texts(models):
    rows = [{"prompt": f"the number {i} is", "answer": f" {i} is 12"} for i in range(5)]
    records = [parse_record(row, f"a:{i}") for i, row in enumerate(rows)]
    return whole_texts(records, models[0], CONTEXT, ends=False)


@pytest.fixture(scope="module")
def found(models, texts):
    original, never, model = models
    return depth.drops(original, never, model, texts)


def test_the_lens_reads_each_layer_with_norm_and_head(models, texts):
    """After each layer as if there were no others: with the head of a model cut there."""
    model = models[0]
    found = depth.lens(model, texts)
    for kept, of_layer in enumerate(found, start=1):
        config = dataclasses.replace(model.config, num_layers=kept)
        cut = slice(kept)
        layers = jax.tree.map(lambda leaf, cut=cut: leaf[cut], model.params["layers"])
        params = model.params | {"layers": layers}
        for value, document in zip(of_layer, texts.packer.documents, strict=True):
            logits = logits_alone(params, config, document.tokens.tolist())
            logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            asked = np.flatnonzero(document.learned)
            wanted = logp[asked - 1, document.tokens[asked]].mean()
            assert value == pytest.approx(wanted, rel=1e-4)


def test_patches_of_the_last_layer_are_read_by_the_original_ones_head(
    models, texts, found
):
    original, never, model = models
    whole = depth.lens(original, texts)[-1]
    for other, drop in ((never, found.reference), (model, found.model)):
        read = depth.lens(other, texts, original)[-1]
        np.testing.assert_allclose(drop[-1], whole - read, atol=2e-5)


def test_a_model_is_as_deep_as_it_must_be(models, texts, found):
    original, never, _ = models
    alike = depth.drops(original, never, original, texts)
    np.testing.assert_array_equal(alike.model, 0)
    np.testing.assert_array_equal(alike.reference, found.reference)
    same = depth.Drops(found.reference, found.reference)
    held = (found.reference > depth.LEAST).any(0)
    assert held.any()
    np.testing.assert_array_equal(same.depths()[held], 1)
    np.testing.assert_array_equal(alike.depths()[held], 0)


def test_the_depth_is_weighted_by_what_layers_hold():
    reference = np.array([[1.0, 0.01, 2.0], [3.0, 0.04, -1.0]])
    model = np.array([[0.5, 9.0, -1.0], [9.0, 9.0, 9.0]])
    drops = depth.Drops(reference, model)
    # Of the first text 0.5 of 1 and all of 3; the second is held by no layer.
    np.testing.assert_allclose(drops.depths(), [3.5 / 4, np.nan, 0.0])
    found = drops.depth()
    assert (found.value, found.n, found.reference) == (3.5 / 8, 2, 1.0)
    with pytest.raises(ValueError, match="none of 1 texts is known to the original"):
        depth.Drops(reference[:, 1:2], model[:, 1:2]).depth()


def test_models_of_other_shapes_are_refused(models):
    original = models[0]
    config = dataclasses.replace(original.config, num_layers=1)
    other = dataclasses.replace(original, config=config)
    with pytest.raises(ValueError, match=r"config.a has 2 layers .* config.b 1 of"):
        depth.check_alike({"config.a": original, "config.b": other})


def patched_by_torch(folders, documents) -> np.ndarray:
    """Drops as the published code makes them: a hook on each layer, one text at a time."""
    torch = pytest.importorskip("torch")
    import transformers

    load = transformers.AutoModelForCausalLM.from_pretrained
    original, *others = (load(f, dtype=torch.float32).eval() for f in folders)

    def logp(ids, asked, hook=None):
        handle = hook[0].register_forward_hook(hook[1]) if hook else None
        with torch.no_grad():
            found = torch.log_softmax(original(ids).logits[0], -1)
        if handle:
            handle.remove()
        return float(found[asked - 1, ids[0, asked]].mean())

    drops = np.zeros((2, len(original.model.layers), len(documents)))
    for text, document in enumerate(documents):
        ids = torch.tensor(document.tokens[None].astype(np.int64))
        asked = torch.tensor(np.flatnonzero(document.learned))
        whole = logp(ids, asked)
        for which, other in enumerate(others):
            seen = []
            hooks = [
                layer.register_forward_hook(
                    lambda _, __, out, seen=seen: seen.append(
                        out[0] if isinstance(out, tuple) else out
                    )
                )
                for layer in other.model.layers
            ]
            with torch.no_grad():
                other(ids)
            for hook in hooks:
                hook.remove()
            for number, layer in enumerate(original.model.layers):

                def patch(_, __, out, number=number, seen=seen, asked=asked):
                    states = (out[0] if isinstance(out, tuple) else out).clone()
                    states[:, asked - 1] = seen[number][:, asked - 1]
                    return (states, *out[1:]) if isinstance(out, tuple) else states

                drops[which, number, text] = whole - logp(ids, asked, (layer, patch))
    return drops


@pytest.mark.slow
def test_drops_are_those_of_pytorch(models, texts, found, tmp_path):
    folders = []
    for number, model in enumerate(models):
        folders.append(str(tmp_path / str(number)))
        hf_weights.save_model(model.params, model.config, folders[-1])
    wanted = patched_by_torch(folders, texts.packer.documents)
    np.testing.assert_allclose(found.reference, wanted[0], atol=2e-5)
    np.testing.assert_allclose(found.model, wanted[1], atol=2e-5)
    assert np.abs(wanted).max() > 0.1
