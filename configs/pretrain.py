# SPDX-License-Identifier: Apache-2.0
"""Pretrains the embedded model, a Llama of 3.7 M parameters.

Hardware: 2 CPU cores, 2 GiB, under 40 minutes. Gives theta_pre of LLM Surgery: it
knows the obsolete, problematic and retained people and the general facts, and
nothing of the replacements.

Command to run:
python -m jax_surgery.main --config=configs/pretrain.py --workdir=runs/pretrain
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config of the embedded model's pretraining."""
    config = ConfigDict()
    config.run = "pretrain"
    config.seed = 0

    config.new_model = ConfigDict()
    config.new_model.vocab_size = 2048  # tokens
    config.new_model.tokenizer = "bpe"  # or "words"
    config.new_model.hidden_size = 256
    config.new_model.intermediate_size = 1024
    config.new_model.num_layers = 3
    config.new_model.num_heads = 4
    config.new_model.num_kv_heads = 4
    config.new_model.tie_embeddings = True  # the head is the embedding
    # The tokenizer knows the replacements' words too: they are ordinary words.
    config.new_model.tokenizer_texts = (
        "embedded:obsolete,embedded:problematic,embedded:update,embedded:retain,"
        "embedded:general"
    )

    config.data = ConfigDict()
    config.data.train = (
        "embedded:obsolete,embedded:problematic,embedded:retain,embedded:general"
    )
    config.data.rows = 8  # a batch
    config.data.context = 256  # tokens a row
    config.data.epochs = 6.0  # passes over the text
    config.data.questions = "embedded"

    config.mesh = ConfigDict()
    config.mesh.data = 0  # copies of the model; 0 is one for each TPU slice
    config.mesh.fsdp = 0  # devices that share its weights; 0 is all that are left
    config.mesh.tp = 1  # devices that share each layer's products

    config.compute = ConfigDict()
    config.compute.dtype = "float32"  # or bfloat16
    config.compute.remat = "none"  # or dots, projections, context, full: least memory
    config.compute.attention = "auto"  # or xla, cudnn (GPU), splash (TPU)

    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"  # or "adafactor", "sgd", "muon"
    config.optimizer.learning_rate = 2e-3  # peak
    config.optimizer.warmup = 100  # steps
    config.optimizer.schedule = "cosine"
    config.optimizer.final = 0.05  # of the peak
    config.optimizer.clip = 1.0  # gradient norm; 0 is none
    config.optimizer.weight_decay = 0.05  # not of norms
    config.optimizer.momentum = 0.0  # 0 is none (sgd, muon)
    config.optimizer.b1 = 0.9  # (adamw, muon)
    config.optimizer.b2 = 0.98  # (adamw, muon)
    config.optimizer.moment_dtype = "float32"  # or bfloat16 (adamw, sgd, muon)
    config.optimizer.second_moment_dtype = "float32"  # or bfloat16 (adamw, muon)

    config.save_dtype = "bfloat16"  # of the exported weights

    config.loop = ConfigDict()
    config.loop.log_every = 10  # steps
    config.loop.evaluate_every = 500  # steps
    config.loop.evaluate_questions = 300  # a group
    config.loop.checkpoint_every = 500  # steps
    config.loop.keep = 2  # checkpoints
    return config
