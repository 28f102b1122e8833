# SPDX-License-Identifier: Apache-2.0
"""What a model says of each token of a corpus, given those before it in its document."""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jax_surgery.data.packing import Packer, Rows
from jax_surgery.data.stream import one_pass
from jax_surgery.models import llama, logprobs, output_head
from jax_surgery.models.config import ModelConfig
from jax_surgery.parallel import mesh as meshes

BATCH_ROWS = 8  # rows of a forward pass, at least

Kind = Literal["logp", "margin", "top"]


@functools.partial(jax.jit, static_argnums=(1, 3))
def _of_rows(params, config: ModelConfig, batch, compute: llama.Compute):
    # All kinds, whichever are asked for: one program serves every reader.
    hidden = llama.forward_packed(params, config, batch, compute=compute)
    targets_BT = jnp.pad(batch["tokens_BT"][:, 1:], ((0, 0), (0, 1)))
    head = output_head.copies(params, compute)
    found = logprobs.token_logprobs(hidden, head, targets_BT)
    back = lambda a: jnp.pad(a[:, :-1], ((0, 0), (1, 0)))
    return {
        "logp": back(found.logp_BT),
        "margin": back(found.margin_BT),
        "top": back(found.top_BT),
    }


def score_tokens(
    params: Any,
    config: ModelConfig,
    packer: Packer,
    compute: llama.Compute,
    *kinds: Kind,
    rows: Rows | None = None,
    batch_rows: int = BATCH_ROWS,
) -> dict[str, np.ndarray]:
    """Scores every token, or those of some rows.

    Args:
      packer: the corpus.
      kinds: "logp", nats; "margin", its log-odds, nats; "top", whether it is the most
        likely token.
      rows: of the corpus, packed; None packs all of it.
      batch_rows: of a forward pass, at least.

    Returns:
      {kind: float32 [tokens]}; 0 where no row has the token. Of the first token of a
      document they mean nothing.
    """
    found = {kind: np.zeros(packer.num_tokens, np.float32) for kind in kinds}
    rows = packer.pack() if rows is None else rows
    for batch, _ in one_pass(rows, meshes.round_rows(batch_rows)):
        index_BT = batch.pop("token_index_BT")
        real_BT = index_BT >= 0
        device = _of_rows(params, config, batch, compute)
        for kind, values in found.items():
            values[index_BT[real_BT]] = meshes.fetch(device[kind])[real_BT]
    return found
