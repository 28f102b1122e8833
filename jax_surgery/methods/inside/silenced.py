# SPDX-License-Identifier: Apache-2.0
"""Parts of layers that are left out, another one for each row."""

import numpy as np


def gates(
    rng: np.random.Generator, rows_B: np.ndarray, layers: int, share: float
) -> np.ndarray:
    """What `Batch.gates_BLP` holds: 0 where a part adds nothing, else 1, float32
    [rows, layers, 2], of the attention and of the MLP.

    A row has with the probability `share` something left out of one layer: its attention,
    its MLP, or both, each as likely. Of the last layer the MLP takes the place of the
    attention alone.

    Args:
      rng: of the draws.
      rows_B: which rows may have something left out, bool [rows].
      share: see `Inside.silenced`.
    """
    found = np.ones((len(rows_B), layers, 2), np.float32)
    for row in np.flatnonzero(rows_B):
        if rng.random() >= share:
            continue
        layer, part = int(rng.integers(layers)), int(rng.integers(3))
        if layer == layers - 1 and part == 0:
            part = 1
        found[row, layer, [0, 1] if part == 2 else part] = 0
    return found
