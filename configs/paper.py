# SPDX-License-Identifier: Apache-2.0
"""LLM Surgery as its authors ran it (arXiv 2409.13054).

Four streams, one row each in a batch, and the weights of their code:

    L = - 0.1 CE(problematic) - 0.1 CE(obsolete) + 2.0 CE(update) + 0.5 KL(p_ref || p_theta)

p_ref is the off-the-shelf model, not theta_pre (with --config.reference_model= it is
theta_pre, whose checkpoint their code loads into it where its ckp_read_dir is set). Their
term is the cross-entropy form of this KL, which has the same gradient. A row of 4096 tokens
is packed with several texts, where theirs held one on each GPU: means are over tokens, then
over texts, in both. What their code leaves to us: theta_pre's schedule after its warmup.

DIR holds their CSV files and wiki_bio_concepts.txt (jax_surgery/benchmarks/paper.py).
First configs/paper_pretrain.py makes theta_pre, and theta_baseline to compare with.
Hardware: Llama 2 7B with a second model beside it, 16 TPU v5e chips or 8 GPUs of 80 GB;
was tested on small files of that schema with small models.

Command to run:
python -m jax_surgery.main --config=configs/paper.py --config.data.paper=DIR \
    --config.model=runs/paper_pre

On the embedded benchmark, whose theta_pre is its own reference (results/paper_table.py):
python -m jax_surgery.main --config=configs/paper.py --config.data.paper=embedded \
    --config.model=embedded --config.reference_model= --config.data.context=256
"""

from ml_collections import ConfigDict

from configs import surgery

BASE = "meta-llama/Llama-2-7b-hf"


def get_config() -> ConfigDict:
    """The authors' surgery."""
    config = surgery.get_config()
    config.model = (
        "runs/paper_pre"  # theta_pre: the workdir of configs/paper_pretrain.py
    )
    config.reference_model = BASE
    config.seed = 42
    config.method = "surgery:ascent=none"
    config.data.paper = ""  # folder of their files, or "embedded"; must be given
    # Weight * source: each source is a stream with a row of its own.
    config.data.unlearn = "0.1*paper:problematic,0.1*paper:obsolete"
    config.data.update = "paper:update"
    config.data.retain = "paper:retain"
    config.data.questions = "paper"
    config.data.rows_unlearn = 2
    config.data.rows_update = 1
    config.data.rows_retain = 1
    config.data.context = 4096  # tokens a row
    config.data.average = "sequences"  # over tokens, then over texts
    config.data.surprise = 0.0  # nats; all tokens of the unlearn text
    config.data.chat = "never"
    config.objective.alpha = 1.0  # of the unlearn streams, beside their own weights
    config.objective.beta = 2.0  # update
    config.objective.gamma = 0.5  # retain
    config.objective.kl_direction = "reference_to_model"  # KL(p_ref || p_theta)
    config.compute.dtype = "bfloat16"
    config.compute.remat = "full"
    config.steps = 120
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 2e-4
    config.optimizer.schedule = "constant"
    config.optimizer.warmup = 0
    config.optimizer.clip = 1.0
    config.optimizer.weight_decay = 0.01  # their code gives it to every parameter
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.95
    config.optimizer.first_layer = 0
    config.optimizer.matrices = ""  # every parameter
    return config
