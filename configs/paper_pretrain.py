# SPDX-License-Identifier: Apache-2.0
"""Continued pre-training of LLM Surgery: theta_pre.

As its authors did it (arXiv 2409.13054).

The off-the-shelf model reads what is to be unlearned and retained, in steps of descent.
With other text the same run makes theta_baseline, the naive alternative to the surgery: it
reads the replacements and what is retained, and never what is to be unlearned.
Hardware: as configs/paper.py. Their data files are in DIR.

Command to run:
python -m jax_surgery.main --config=configs/paper_pretrain.py --config.data.paper=DIR \
    --workdir=runs/paper_pre

The baseline:
python -m jax_surgery.main --config=configs/paper_pretrain.py --config.data.paper=DIR \
    --config.data.update=paper:update,paper:retain --workdir=runs/paper_baseline
"""

from ml_collections import ConfigDict

from configs import paper


def get_config() -> ConfigDict:
    """The authors' continued pre-training: a surgery that only learns."""
    config = paper.get_config()
    config.model = paper.BASE
    config.reference_model = ""
    config.attacks = ""  # nothing is to be gone
    config.data.unlearn = ""
    config.data.update = "paper:problematic,paper:obsolete,paper:retain"  # is learned
    config.data.retain = ""
    config.data.rows_unlearn = 0
    config.data.rows_update = 8
    config.data.rows_retain = 0
    config.objective.beta = 1.0
    config.optimizer.learning_rate = 1.5e-4
    config.optimizer.warmup = 10  # steps
    config.steps = 960
    config.loop.evaluate_every = 120  # steps
    config.loop.checkpoint_every = 120  # steps
    return config
