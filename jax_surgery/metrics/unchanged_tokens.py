# SPDX-License-Identifier: Apache-2.0
"""Unchanged tokens: share of an answer's places whose most likely token is what it was before.

EasyEdit's locality. Whether the answer is right does not count; `token_accuracy` says that.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jax_surgery.data.packing import Packer
from jax_surgery.data.probes import Probe
from jax_surgery.data.stream import one_pass
from jax_surgery.metrics import cases
from jax_surgery.metrics.base import Comparison, Estimate
from jax_surgery.metrics.tokens import BATCH_ROWS
from jax_surgery.models import decoder, logprobs, output_head
from jax_surgery.models.model import Model
from jax_surgery.parallel import mesh as meshes

Predicted = tuple[np.ndarray, ...]


@functools.partial(jax.jit, static_argnums=(1, 3))
def _of_rows(params, config, batch, compute):
    hidden = decoder.forward_packed(params, config, batch, compute=compute)
    head = output_head.copies(params, config, compute)
    targets_BT1 = batch.tokens_BT[..., None]
    found_BT, _ = logprobs.likeliest_tokens(hidden, head, targets_BT1)
    return jnp.pad(found_BT[:, :-1], ((0, 0), (1, 0)))


def observe(model: Model, probe: Probe) -> Predicted:
    """The most likely token at each learned token of each text, int32 [tokens] each.

    Raises:
      ValueError: no text, or one that is longer than the context.
    """
    documents = probe.encoded(model.tokenizer).documents
    if len(documents) != len(probe.records):
        raise ValueError(
            f"the probe {probe.group!r} has {len(probe.records)} records and "
            f"{len(documents)} documents of at most config.data.context={probe.context} "
            "tokens; unchanged_tokens compares records that fit, so raise it."
        )
    packer = Packer(documents, probe.context, "tokens")
    found = np.zeros(packer.num_tokens, np.int32)
    rows = packer.pack()
    for batch in one_pass(rows, meshes.round_rows(BATCH_ROWS), "reading answers"):
        index_BT = np.asarray(batch.token_index_BT)
        device_BT = _of_rows(
            model.params, model.config, batch.for_devices(), model.compute
        )
        real_BT = index_BT >= 0
        found[index_BT[real_BT]] = meshes.fetch(device_BT)[real_BT]
    pieces = np.split(np.arange(packer.num_tokens), packer.starts[1:])
    return tuple(found[piece][packer.learned[piece]] for piece in pieces)


def _compare(after: Predicted, before: Predicted, probe: Probe) -> Estimate:
    pairs = zip(after, before, strict=True)
    return cases.estimate(np.array([np.mean(a == b) for a, b in pairs]), probe)


COMPARISON = Comparison(
    name="unchanged_tokens",
    against="before",
    direction="neither",
    unit="share",
    counts="cases",
    source="locality of EasyEdit and KnowEdit (arXiv 2308.07269, arXiv 2401.01286)",
    protocol="teacher-forced token accuracy",
    observe=observe,
    compare=_compare,
)
