# SPDX-License-Identifier: Apache-2.0
"""A surgery on your own model that needs no tuning.

Say what to forget and to learn, and how much of the rest may change. The model writes text to retain beside yours (neighbours of what is forgotten, chats),
measures which tokens carry the knowledge and where a model that never knew would stand,
and the run keeps the KL on held-out text within `retain.budget`.

Hardware: on 2 CPU cores a job of 17 facts took 16 minutes and 5.3 GiB at its peak on SmolLM2-135M
(results/job_table.py). What is known of its results: docs/automatic.md.

Command to run:
python -m jax_surgery.main --config=configs/automatic.py --config.model=DIR \
    --config.data.unlearn=forget.jsonl --config.data.update=new.jsonl \
    --config.data.retain=keep.jsonl
"""

from ml_collections import ConfigDict

from configs import surgery


def get_config() -> ConfigDict:
    """The config of a surgery that keeps to a budget."""
    config = surgery.get_config()
    config.method = "never_knew"
    config.retain.budget = 0.02  # nats per token
    config.retain.complete = True
    # The optimizer of a run with more text to unlearn than it reads several times.
    config.retain.many = "orthogonal"
    config.reference = "cached"
    config.steps = 0  # at most; 0: as many as the texts ask for
    config.attacks = "blocks:parts=layer,last=3;quantisation:formats=int4"
    config.data.questions = ""
    config.data.surprise = 0.0
    config.data.rows_unlearn = 3
    config.data.rows_update = 2
    config.data.rows_retain = 4
    config.objective.retained_positions = "learned"
    config.objective.alpha = 2.0
    config.objective.beta = 2.0
    config.objective.gamma = 100.0  # the run sets a factor on it
    config.optimizer.name = "kfac"
    # A factor on the length of steps, each of which costs a share of the budget.
    config.optimizer.learning_rate = 1.0
    config.optimizer.first_layer = 0  # the upper sixth
    config.statistics.tokens = 16_000
    config.statistics.ridge = 1e-4  # raised where float32 asks for it
    config.statistics.scale = "inputs"
    config.compute.remat = "dots"
    config.loop.evaluate_every = 0
    config.loop.checkpoint_every = 24
    return config
