# SPDX-License-Identifier: Apache-2.0
"""What the rows of a run hold once, such as the system message of a chat template."""

from collections.abc import Sequence

import numpy as np

from jax_surgery.data.packing import common_beginning
from jax_surgery.data.tokens import Document
from jax_surgery.models import attention_kernels
from jax_surgery.models.model import Model


def shared(
    model: Model, documents: Sequence[Document], context: int
) -> np.ndarray | None:
    """Tokens with which most documents begin, int32 [n] (see `common_beginning`); None
    where the model's attention reads no rows that share them.

    Args:
      documents: of all rows.
      context: tokens of a row.
    """
    compute = model.compute
    how = (compute.attention, model.config, compute.dtype, context)
    if not attention_kernels.shares_beginnings(*how):
        return None
    return common_beginning(documents, context)
