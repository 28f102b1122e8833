# SPDX-License-Identifier: Apache-2.0
"""Looks for traces of unlearned text in a model.

Does the model show that it was trained on the text (membership inference), and what do the
layers inside still hold of it (unlearning depth, logit lens)? The report draws both.

Hardware: 2 CPU cores, 2 GiB, a minute for small models; the models that are named are held at
once. Gradient norms take about three times as long as all other scores.

Command to run (DIR and the others are model directories, or workdirs of finished runs):
python -m jax_surgery.main --config=configs/privacy.py --config.model=DIR \
    --config.data.unlearn=forget.jsonl --config.data.holdout=unseen.jsonl \
    --config.reference_model=NEVER_KNEW --config.original_model=BEFORE
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config of a search for traces."""
    config = ConfigDict()
    config.run = "privacy"
    config.model = "embedded"  # a finished run's workdir, a directory, or a hub name
    config.reference_model = ""  # one that never knew the text; "" has none
    config.original_model = ""  # the one before unlearning; "" measures no depth
    # Of loss, zlib, reference, min_k, min_k_plus_plus, gradient_norm, comma-separated; ""
    # takes all (reference with a reference model alone).
    config.scores = ""
    config.min_k = 0.4  # share of a text's tokens that min_k and min_k_plus_plus take

    config.data = ConfigDict()
    config.data.unlearn = ""  # sources of text that was unlearned (members)
    # Sources of text of the same kind that no model has seen; "" leaves membership out.
    config.data.holdout = ""
    config.data.context = 256  # tokens a row; longer texts are split

    config.mesh = ConfigDict()
    config.mesh.data = 0  # copies of the model; 0 is one for each TPU slice
    config.mesh.fsdp = 0  # devices that share its weights; 0 is all that are left
    config.mesh.tp = 1  # devices that share each layer's products

    config.compute = ConfigDict()
    config.compute.dtype = "float32"  # or bfloat16
    config.compute.remat = "none"  # or dots, projections, context, full: least memory
    config.compute.attention = "auto"  # or xla, cudnn (GPU), splash (TPU)
    return config
