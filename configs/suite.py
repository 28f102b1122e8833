# SPDX-License-Identifier: Apache-2.0
"""Pretrains the model of the embedded suite, of 15 tasks.

Hardware: 2 CPU cores, 2 GiB.

Command to run:
python -m jax_surgery.main --config=configs/suite.py --workdir=runs/suite
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config() -> ConfigDict:
    """The config of the suite's pretraining; fields as in configs/pretrain.py."""
    config = pretrain.get_config()
    config.new_model.vocab_size = 512
    config.new_model.tokenizer = "words"
    config.new_model.hidden_size = 128
    config.new_model.intermediate_size = 256
    config.new_model.num_layers = 4
    # The words of tasks that are only learned later too.
    config.new_model.tokenizer_texts = (
        "suite:pretrain,suite:rotate,suite:dict_c,suite:people_c"
    )
    config.data.train = "suite:pretrain"
    config.data.rows = 12
    config.data.context = 128
    config.data.epochs = 16.0
    config.data.questions = ""
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 5e-3
    config.optimizer.momentum = 0.95
    return config
