# SPDX-License-Identifier: Apache-2.0
"""Evaluates a model on multiple-choice questions and on texts.

Of texts it gives the nats per token.

Hardware: 2 CPU cores, 2 GiB, about a minute with the embedded model, for which it
gives at least 97 % on what was trained and about 25 % (chance) on `update`.

Command to run:
python -m jax_surgery.main --config=configs/evaluate.py --config.model=DIR

Your own texts (JSONL) in addition, or alone with --config.data.questions= :
python -m jax_surgery.main --config=configs/evaluate.py --config.model=DIR \
    --config.data.text=a.jsonl,b.jsonl
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config of an evaluation."""
    config = ConfigDict()
    config.run = "evaluate"
    config.model = "embedded"  # "embedded", a directory, or a hub name
    # A model to compare with, where the benchmark does: the one before the change
    # (editing), or one that never knew (MUSE); "" leaves it out.
    config.reference_model = ""
    # "embedded", "suite:targets=add+sub", "tofu:dir=DIR", "muse:dir=DIR", "wmdp:dir=DIR",
    # "counterfact:file=FILE", "zsre:file=FILE", "knowedit:file=FILE"; "" for none
    config.benchmark = ""
    # Names, comma-separated, of the benchmark and texts (see jax_surgery/metrics); "" is
    # what the benchmark names, of TOFU its own scores (docs/benchmarks.md).
    config.metrics = ""

    config.data = ConfigDict()
    config.data.questions = "embedded"  # a questions JSONL, or "" for none
    # Whether questions are asked in the model's chat template: "auto" where it has one,
    # "always", or "never".
    config.data.chat = "auto"
    config.data.text = ""  # JSONL files, comma-separated
    config.data.context = 256  # tokens a row

    config.mesh = ConfigDict()
    config.mesh.data = 0  # copies of the model; 0 is one for each TPU slice
    config.mesh.fsdp = 0  # devices that share its weights; 0 is all that are left
    config.mesh.tp = 1  # devices that share each layer's products

    config.compute = ConfigDict()
    config.compute.dtype = "float32"  # or bfloat16
    config.compute.attention = "auto"  # or xla, cudnn (GPU), splash (TPU)
    return config
