# SPDX-License-Identifier: Apache-2.0
"""Attacks a model: does what was removed from it come back?

The adversary has half of what was removed, trains on it, and is asked the other half; or
tries what needs no training. What counts is how far the model then lies above one that
never knew.
Hardware: 2 CPU cores, 2 GiB, a minute with the model of the suite.

Command to run (DIR is the workdir of a finished run, or a model's directory):
python -m jax_surgery.main --config=configs/attack.py --config.model=DIR \
    --config.benchmark=suite:targets=dict_a --config.reference_model=NEVER_KNEW

All attacks, relearning as the worst over optimizers, rates, texts and seeds:
python -m jax_surgery.main --config=configs/attack.py --config.model=DIR \
    --config.benchmark=suite:targets=dict_a --config.attack=all \
    --config.reference_model=train

Your own records (half of them is held out, or say what is asked):
python -m jax_surgery.main --config=configs/attack.py --config.model=DIR \
    --config.benchmark= --config.data.relearn=removed.jsonl \
    --config.data.held_out=asked.jsonl --config.data.context=256
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The default config of an attack."""
    config = ConfigDict()
    config.run = "attack"
    config.model = "suite"  # a finished run's workdir, a directory, or a hub name
    # One that never knew, attacked in the same way; or results.json of an attack on it;
    # or "train", which trains one on retained text alone.
    config.reference_model = ""
    # The model before the unlearning, for way_back; "" is that of a finished run's workdir.
    config.before = ""
    # Or "blocks", "samples", ... (docs/attacks.md); several with semicolons between. Or
    # "untrained", "standard", "grid", "all": several by one name. Several values of an
    # option are tried one by one: "relearning:learning_rate=1e-4+1e-3,seed=0+1".
    config.attack = "relearning:learning_rate=3e-4,steps=80"
    config.benchmark = "suite:targets=dict_a"  # or "embedded", "tofu:dir=DIR", ""
    config.metrics = ""  # names, comma-separated; "" takes the benchmark's
    config.measure_at = "5,20,80"  # steps; before and after in any case
    config.seed = 0

    config.data = ConfigDict()
    config.data.relearn = ""  # sources of what was removed, where benchmark is ""
    config.data.held_out = ""  # sources of what is asked; "" is half of relearn
    # Sources; "" takes those of the benchmark, where it has some.
    config.data.reworded = ""  # what is asked, in other words
    config.data.related = ""  # text of the same kind, without the answers
    config.data.retained = ""  # text that the model was to retain
    config.data.chat = "auto"  # questions in the model's chat template; or "never"
    config.data.context = 128  # tokens a row

    # A model that never knew, where reference_model is "train".
    config.never_knew = ConfigDict()
    config.never_knew.start = (
        ""  # of a model that has not read it; "" is random weights
    )
    config.never_knew.epochs = 6.0  # passes over the retained text
    config.never_knew.rows = 8  # a batch
    config.never_knew.learning_rate = 2e-3  # peak

    # What the adversary may spend; 0 sets no limit.
    config.budget = ConfigDict()
    config.budget.steps = 0
    config.budget.tokens = 0
    config.budget.flops = 0.0

    config.mesh = ConfigDict()
    config.mesh.data = 0  # copies of the model; 0 is one for each TPU slice
    config.mesh.fsdp = 0  # devices that share its weights; 0 is all that are left
    config.mesh.tp = 1  # devices that share each layer's products

    config.compute = ConfigDict()
    config.compute.dtype = "float32"  # or bfloat16
    config.compute.remat = "none"  # or dots, projections, context, full: least memory
    config.compute.attention = "auto"  # or xla, cudnn (GPU), splash (TPU)
    return config
