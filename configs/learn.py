# SPDX-License-Identifier: Apache-2.0
"""LEARN (arXiv 2408.04140): puts a task into the weights and keeps all others.

Hardware: 2 CPU cores, 2 GiB.

Command to run:
python -m jax_surgery.main --config=configs/learn.py --config.tasks.targets=dict_c

With LoRA instead, on the same tasks (exports adapter/ in PEFT's format too):
python -m jax_surgery.main --config=configs/learn.py --config.tasks.targets=dict_c \
    --config.lora.rank=8 --config.discriminate.guard=0.0 --config.tasks.rows_kept=0
"""

from ml_collections import ConfigDict

from configs import unlearn


def get_config() -> ConfigDict:
    """The default config of an addition; fields as in configs/unlearn.py."""
    config = unlearn.get_config()
    config.run = "learn"
    config.tasks.targets = "dict_c"
    config.tasks.rows = 6
    config.identify.loss = "cross_entropy"
    config.identify.temperature = 1.0
    config.rounds.step = 1e-2
    config.rounds.schedule = "cosine"
    config.rounds.rank = 8
    config.discriminate.refresh = 3
    return config
