# SPDX-License-Identifier: Apache-2.0
"""A surgery by low-rank deltas, for a large model.

The weights are frozen and read in bfloat16; what moves are deltas of a few million
numbers, and the frozen model is the reference of the KL itself. The run keeps to no
budget. That its rates suit a real model has not been measured: read the report, which
says what was forgotten, learned and lost, and change them there.

Hardware: by the compiler a step on Llama-3.2-3B needs 6.83 of a v5e chip's 15.75 GiB
(configs/plan.py:low_rank).

Command to run:
python -m jax_surgery.main --config=configs/low_rank.py --config.model=DIR \
    --config.data.unlearn=forget.jsonl --config.data.update=new.jsonl \
    --config.data.retain=keep.jsonl,general
"""

from ml_collections import ConfigDict

from configs import surgery


def get_config() -> ConfigDict:
    """The config of a surgery by low-rank deltas; fields as in configs/surgery.py."""
    config = surgery.get_config()
    config.method = "npo"
    config.steps = 60
    config.attacks = "blocks:parts=layer,last=3;quantisation:formats=int4"
    config.data.questions = ""
    config.data.surprise = 0.0
    config.data.rows_unlearn = 1
    config.data.rows_update = 1
    config.data.rows_retain = 4
    config.compute.dtype = "bfloat16"
    config.compute.remat = "full"  # least memory
    config.objective.alpha = 1.0
    config.objective.beta = 1.0
    config.objective.gamma = 4.0
    config.lora.rank = 16
    config.optimizer.name = "adamw"
    config.optimizer.matrices = ""
    config.optimizer.first_layer = 0
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup = 5
    config.loop.evaluate_every = 0
    return config
