# SPDX-License-Identifier: Apache-2.0
"""LEARN (arXiv 2408.04140): adds a task and retains all others.

Hardware: 2 CPU cores, 2 GiB.

Command to run:
python -m jax_surgery.main --config=configs/learn.py --config.tasks.targets=dict_c

With LoRA instead, on the same tasks (exports adapter/ in PEFT's format too):
python -m jax_surgery.main --config=configs/learn.py --config.tasks.targets=dict_c \
    --config.lora.rank=8 --config.tasks.rows_retained=0 \
    --config.method=subspace:loss=cross_entropy,temperature=1,guard=0
"""

from ml_collections import ConfigDict

from configs import unlearn


def get_config() -> ConfigDict:
    """The default config of an addition; fields as in configs/unlearn.py."""
    config = unlearn.get_config()
    config.run = "learn"
    config.method = "subspace:loss=cross_entropy,temperature=1,cosine=True,refresh=3"
    config.tasks.targets = "dict_c"
    config.tasks.rows = 6
    config.rounds.step = 1e-2
    config.rounds.rank = 8
    return config
