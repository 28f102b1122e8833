# SPDX-License-Identifier: Apache-2.0
"""LLM Surgery's printed formula (arXiv 2409.13054, Eq. 1).

Unbounded ascent on every token of the unlearn text, KL(p_theta || p_pre), all
parameters, AdamW. Data, batches and steps are those of surgery.py. What its authors ran
differs from it: configs/paper.py.
Hardware: 2 CPU cores, under 3 minutes with the embedded model.

Command to run:
python -m jax_surgery.main --config=configs/paper_formula.py
"""

from ml_collections import ConfigDict

from configs import surgery


def get_config() -> ConfigDict:
    """The default config with the printed objective, and AdamW."""
    config = surgery.get_config()
    config.method = "surgery:ascent=none"
    config.data.surprise = 0.0  # nats; all tokens of the unlearn text
    config.objective.alpha = 1.0  # unlearn
    config.objective.beta = 1.0  # update
    config.objective.gamma = 1.0  # retain
    config.objective.kl_direction = "model_to_reference"  # KL(p_theta || p_pre)
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 3e-4
    config.optimizer.first_layer = 0
    config.optimizer.matrices = ""  # every parameter
    return config
