# SPDX-License-Identifier: Apache-2.0
"""How deep unlearning goes: what the layers inside still hold, whatever is said.

Unlearning depth (UDS, arXiv 2605.24614) patches states. The original model
reads a text, but after one layer its states at the positions that predict the answer are
those of another model. Where they are the states of a model that never knew, log p of the
answer falls: the layer holds what is asked. Where they are the unlearned model's it should
fall as far:

    reference_l = mean log p(answer) - the same with states l of the model that never knew
    model_l     = the same with states l of the unlearned model
    depth       = sum_l reference_l clip(model_l / reference_l, 0, 1) / sum_l reference_l

over layers with reference_l > `LEAST`, mean over texts: 0 where all is there, 1 where as
little is there as in the model that never knew.

The logit lens (nostalgebraist 2020) reads the states after each layer with a norm and an
output head. Its depth is the same formula, with log p by the lens in the place of patches.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_surgery.data.stream import one_pass
from jax_surgery.metrics.base import Estimate
from jax_surgery.metrics.intervals import bootstrap_mean
from jax_surgery.metrics.whole_texts import WholeTexts
from jax_surgery.models import decoder, logprobs, output_head
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.documents import at_targets, shifted
from jax_surgery.models.model import Model
from jax_surgery.parallel import mesh as meshes

LEAST = (
    0.05  # nats per token by which a patch must lower an answer, to say that it is held
)
ROWS = 8  # of a forward pass, of which all layers' states are kept

Params = Any


@functools.partial(jax.jit, static_argnums=(1, 3))
def _states(params, config: ModelConfig, batch, compute: decoder.Compute) -> jax.Array:
    """The residual stream after each layer, [L, B, T, D]."""
    options: Any = {"compute": compute, "inside": True}
    _, (_, after) = decoder.forward_with_moments(params, config, batch, **options)
    return after


def _logp(params, config, batch, hidden_BTD, compute) -> jax.Array:
    """log p of each token by final states, [B, T]."""
    head = output_head.copies(params, config, compute)
    found = logprobs.token_logprobs(hidden_BTD, head, shifted(batch.tokens_BT))
    return at_targets(found.logp_BT)


@functools.partial(jax.jit, static_argnums=(1, 3))
def _lens(params, config: ModelConfig, batch, compute: decoder.Compute, states_LBTD):
    """log p of each token by the states after each layer, [L, B, T]."""

    def of_layer(states_BTD):
        normed = decoder.final_norm(params, states_BTD, config)
        return _logp(params, config, batch, normed, compute)

    return jax.lax.map(of_layer, states_LBTD)


@functools.partial(jax.jit, static_argnums=(1, 3, 4))
def _patched(
    params,
    config: ModelConfig,
    batch,
    compute: decoder.Compute,
    layer: int,
    own_LBTD,
    other_LBTD,
):
    """log p of each token where the states after one layer are another model's, at
    positions that predict what is asked, [B, T]."""
    asked_BT1 = (shifted(batch.weights_BT) > 0)[..., None]
    states_BTD = jnp.where(asked_BT1, other_LBTD[layer], own_LBTD[layer])
    first = layer + 1
    if first == config.num_layers:
        hidden_BTD = decoder.final_norm(params, states_BTD, config)
    else:
        entered = batch.replace(lower_BTD=states_BTD)
        hidden_BTD = decoder.forward_packed(
            params, config, entered, compute=compute, first_trained_layer=first
        )
    return _logp(params, config, batch, hidden_BTD, compute)


def lens(
    model: Model, texts: WholeTexts, decoder_of: Model | None = None
) -> np.ndarray:
    """Mean log p of each text by the states after each layer, float64 [layers, texts].

    Args:
      decoder_of: whose final norm and output head read the states; None is the model.
    """
    reader = decoder_of or model
    count = model.config.num_layers
    found = np.zeros((count, texts.packer.num_tokens), np.float32)
    for batch in one_pass(texts.rows, meshes.round_rows(ROWS), "reading the layers"):
        asked_BT, given = batch.weights_BT > 0, batch.for_devices()
        states = _states(model.params, model.config, given, model.compute)
        read = _lens(reader.params, reader.config, given, reader.compute, states)
        index = batch.token_index_BT[asked_BT]
        found[:, index] = meshes.fetch(read)[:, asked_BT]
    return np.stack([texts.means(of_layer) for of_layer in found])


@dataclasses.dataclass(frozen=True, eq=False)
class Drops:
    """How far log p of each text falls, by layer, float64 [layers, texts], nats per token.

    Attributes:
      reference: with the states of the model that never knew.
      model: with those of the unlearned model.
    """

    reference: np.ndarray
    model: np.ndarray

    def depths(self) -> np.ndarray:
        """The depth of each text, [texts]; NaN where no layer holds it."""
        held = self.reference > LEAST
        weight = np.where(held, self.reference, 0.0)
        erased = np.clip(self.model / np.where(held, self.reference, 1.0), 0, 1)
        total = weight.sum(0)
        return (weight * erased).sum(0) / np.where(total > 0, total, np.nan)

    def depth(self) -> Estimate:
        """The mean depth of the texts that a layer holds, over texts.

        Raises:
          ValueError: none of them is held by any layer.
        """
        depths = self.depths()
        held = depths[~np.isnan(depths)]
        if not len(held):
            raise ValueError(
                f"none of {len(depths)} texts is known to the original model beyond the "
                f"one that never knew: no layer lowers log p by {LEAST} nats per token "
                "when it is patched. Give as config.original_model the model before "
                "unlearning, and as config.data.member text that it was trained on."
            )
        return Estimate(float(held.mean()), bootstrap_mean(held), len(held), 1.0)


def check_alike(models: dict[str, Model]) -> None:
    """Raises ValueError where states of one model cannot stand in another.

    Args:
      models: by the field of the config that names each.
    """
    (first, one), *others = models.items()
    for name, other in others:
        sizes = [(m.config.num_layers, m.config.hidden_size) for m in (one, other)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"{first} has {sizes[0][0]} layers of width {sizes[0][1]}, and {name} "
                f"{sizes[1][0]} of width {sizes[1][1]}: states of one cannot be put into "
                "the other. Give models of one architecture."
            )
        if one.tokenizer.get_vocab() != other.tokenizer.get_vocab():
            raise ValueError(
                f"{first} and {name} have different tokenizers, so their states are of "
                "different tokens. Give models that were made from one."
            )


def drops(original: Model, never: Model, model: Model, texts: WholeTexts) -> Drops:
    """Patches states of two models into the original one, layer by layer.

    Three models are held at once, and the states after all layers of a batch of each.

    Args:
      original: before unlearning.
      never: one that never knew the texts.
      model: the unlearned one.
      texts: what was unlearned; the end of a text should not be asked.
    """
    count = original.config.num_layers
    found = np.zeros((2, count, texts.packer.num_tokens), np.float32)
    for batch in one_pass(texts.rows, meshes.round_rows(ROWS), "patching layers"):
        asked_BT, given = batch.weights_BT > 0, batch.for_devices()
        index = batch.token_index_BT[asked_BT]
        own, *others = (
            _states(m.params, m.config, given, m.compute)
            for m in (original, never, model)
        )
        how = (original.params, original.config, given, original.compute)
        # The last layer's own states give what is said without a patch.
        whole = meshes.fetch(_patched(*how, count - 1, own, own))[asked_BT]
        for layer in range(count):
            for which, other in enumerate(others):
                logp = meshes.fetch(_patched(*how, layer, own, other))[asked_BT]
                found[which, layer, index] = whole - logp
    by_text = [[texts.means(of_layer) for of_layer in which] for which in found]
    return Drops(*map(np.array, by_text))
