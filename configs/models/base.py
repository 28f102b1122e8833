# SPDX-License-Identifier: Apache-2.0
"""What the configs of published models have in common: surgery.py on your own text.

Sources of text to unlearn and to update must be given; "general" is retained beside yours.
Steps, rate and weights are a beginning and were tuned on none of these models: look at the
report before you believe a run. configs/automatic.py sets its own, to keep to a budget.
"""

from ml_collections import ConfigDict

from configs import surgery


def full(model: str, rows: int, context: int = 2048) -> ConfigDict:
    """A surgery that trains all parameters.

    Args:
      model: a hub name.
      rows: of each role in a batch: one for each chip of the slice.
      context: tokens a row.
    """
    config = surgery.get_config()
    config.model = model
    config.data.unlearn = ""  # your text
    config.data.update = ""  # your text
    config.data.retain = "general"  # give yours too: keep.jsonl,general
    config.data.rows_unlearn = rows
    config.data.rows_update = rows
    config.data.rows_retain = rows
    config.data.context = context
    config.data.surprise = 0.0
    config.data.questions = ""
    config.compute.dtype = "bfloat16"
    config.compute.remat = "full"
    config.reference = "cached"
    config.optimizer.name = "adamw"
    config.optimizer.first_layer = 0
    config.optimizer.matrices = ""  # every parameter
    config.optimizer.learning_rate = 1e-5
    config.optimizer.warmup = 5  # steps
    return config


def low_rank(model: str, rows: int, context: int = 2048) -> ConfigDict:
    """A surgery that trains low-rank deltas of a frozen bfloat16 model; see `full`."""
    config = full(model, rows, context)
    config.lora.rank = 16
    config.optimizer.learning_rate = 1e-4
    return config
