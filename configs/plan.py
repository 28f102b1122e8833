# SPDX-License-Identifier: Apache-2.0
"""What a training step needs on a TPU slice.

The real program is compiled for the slice; nothing is run, and no TPU is needed. Needs the
extra `plan` (libtpu).
Hardware: 2 CPU cores, 1 to 5 minutes and 2 GiB; with --config.fast under 40 seconds.

Command to run:
python -m jax_surgery.main --config=configs/plan.py --config.model=llama2_7b \
    --config.topology=v5e:4x4

The step of a training config, on its own rows: --config=configs/plan.py:NAME for
configs/NAME.py (surgery, paper or tofu), with --config.model=embedded or your model. A
config of configs/models/ brings its own model and slice: --config=configs/plan.py:models/llama2_7b.

Where the optimizer is preconditioned ("natural", "orthogonal", "kfac"), the programs
that compute its statistics are compiled too. The four programs of a subspace removal
(moments, ridge, a round, factors of the change) in place of the step:
--config.program=subspace.
"""

import importlib

from ml_collections import ConfigDict


def get_config(base: str = "") -> ConfigDict:
    """The config of a plan, of the step of configs/`base`.py."""
    config = ConfigDict()
    config.run = "plan"
    config.program = "step"  # or "subspace": the four programs of a subspace removal
    config.model = "llama2_7b"  # models/published.py, a directory or a hub name
    config.topology = "v5e:4x4"  # v4:2x2x2, v5p:4x4x4, v6e:8x8, ...
    config.num_slices = 1  # joined by the data centre's network
    config.rows = 0 if base else 1  # of each role per device; 0: surgery.data's
    config.fast = False  # memory alone
    config.neighbours = "auto"  # "yes", "no", or "auto": where it does not fit

    module = importlib.import_module(f"configs.{(base or 'surgery').replace('/', '.')}")
    if hasattr(module, "SLICE"):  # of configs/models/
        config.model, config.topology = module.ARCHITECTURE, module.SLICE
    config.surgery = module.get_config()
    if config.surgery.run == "tofu":
        config.surgery = config.surgery.surgery
    if base:
        return config
    config.surgery.data.context = 2048  # tokens per row
    config.surgery.compute.dtype = "bfloat16"
    config.surgery.compute.remat = "full"
    config.surgery.reference = "cached"
    config.surgery.optimizer.name = "adamw"
    config.surgery.optimizer.first_layer = 0  # all parameters
    config.surgery.optimizer.matrices = ""
    config.surgery.optimizer.learning_rate = 1e-5
    return config
