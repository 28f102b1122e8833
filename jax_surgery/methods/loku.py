# SPDX-License-Identifier: Apache-2.0
"""LoKU (Cha et al. 2025, arXiv 2408.06621): the inverted hinge loss with FILA.

The loss is that of `ihl`, with cross-entropy on retained text. What moves are low-rank
deltas (`config.lora.rank`) that begin in the directions which the text to unlearn uses
more than retained text does (FILA, `optim.fila`): importance of a weight is the mean of
its squared gradient. The published code squares the gradient of a batch of 2 or 4 texts,
which is the smaller the larger the batch; here it is that of one text, and `texts=4`
does as published.

The published code trains beside a residual copy of the weights, W - s B A, and exports
that copy next to the adapter. Here the base stays W, which is the KL's reference as well:
a delta is s (B A - B0 A0), and what is exported is one model.
"""

import dataclasses

from jax_surgery.methods.ihl import IHL


@dataclasses.dataclass(frozen=True)
class LoKU(IHL):
    """The inverted hinge loss, on low-rank deltas that begin where it matters.

    Attributes:
      texts: whose gradient is squared together, when importance is measured.
      most: texts of each role that are read for it; 0 reads all, as published.
    """

    texts: int = 1
    most: int = 512

    retains = "nll"

    def __post_init__(self):
        if self.texts < 1 or self.most < 0:
            raise ValueError(
                f"config.method=loku:texts={self.texts},most={self.most}; use 1 or more "
                "texts at a time, and 0 (all) or more of each role."
            )
