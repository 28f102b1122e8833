# SPDX-License-Identifier: Apache-2.0
"""UNLEARN (arXiv 2408.04140): removes a task.

Hardware: 2 CPU cores, 2 GiB.

Command to run:
python -m jax_surgery.main --config=configs/unlearn.py --config.tasks.targets=dict_a

Your own checkpoint and tasks (JSONL, a task a line; see jax_surgery/benchmarks/tasks.py):
python -m jax_surgery.main --config=configs/unlearn.py --config.model=DIR \
    --config.tasks.source=tasks.jsonl --config.tasks.targets=addresses

What is left out of the model lies in edit.safetensors beside it (configs/edit.py).

Removal that lasts longer when the model is trained again, also from copies that have
relearned the targets, and with other texts' answers in the place of theirs:
python -m jax_surgery.main --config=configs/unlearn.py \
    --config.method=subspace:harden=6,overwrite=1 --config.rounds.step=0.01

The paper, as its figure shows it, to compare with (it does not work: random weights
have no basis in common with the model's):
python -m jax_surgery.main --config=configs/unlearn.py --config.method=unlearn_paper \
    --config.rounds.number=160 --config.tasks.targets=dict_a
"""

from ml_collections import ConfigDict

from configs import surgery


def get_config() -> ConfigDict:
    """The default config of a removal."""
    config = ConfigDict()
    config.run = "unlearn"
    config.model = "suite"  # "suite", "embedded", a directory, or a hub name
    config.seed = 0
    # Options follow a colon, "subspace:guard=0,mend=0"; they stand, with what they are
    # for, in jax_surgery/methods/subspace/method.py.
    config.method = "subspace"  # or "unlearn_paper"

    config.tasks = ConfigDict()
    config.tasks.source = "suite"  # or a JSONL file of tasks
    config.tasks.targets = "dict_a"  # "a,b" together, "a;b" one after the other
    config.tasks.similar = "family"  # to the targets; "overlap", or names
    config.tasks.chat = "auto"  # questions in the model's chat template; or "never"
    # Whether the model writes its own answers to the targets' questions, and text to
    # retain beside the other tasks; then those tokens alone are removed that carry
    # knowledge. "auto": of a model that has a chat template of its own; "always", "never".
    config.tasks.complete = "auto"
    config.tasks.context = 128  # tokens a row
    config.tasks.rows = 4  # of targets' text in a round
    config.tasks.rows_retained = 8  # in a round; 0 with the method's guard=0

    # What the model says by itself, before and after: prompts of a group that are asked;
    # 0 asks none, and -1 asks 64 of a model that has a chat template of its own.
    config.free_form = -1
    # Tried on the finished model, with what the targets are scored on: are they removed, or
    # hidden? Names of configs/attack.py; those that train nothing take seconds.
    config.attacks = "blocks;exits;quantisation"

    config.rounds = surgery.rounds()

    config.statistics = ConfigDict()
    config.statistics.cache = ""  # folder that runs share; "" is the workdir's

    # A low-rank adapter of rounds.matrices instead, which Adam moves.
    config.lora = ConfigDict()
    config.lora.rank = 0
    config.lora.alpha = 16.0  # deltas are multiplied by alpha / rank
    config.adapter = ""  # directory in PEFT's format to go on from
    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 1e-3

    config.mesh = ConfigDict()
    config.mesh.data = 0  # copies of the model; 0 is one for each TPU slice
    config.mesh.fsdp = 0  # devices that share its weights; 0 is all that are left
    config.mesh.tp = 1  # devices that share each layer's products

    config.compute = ConfigDict()
    config.compute.dtype = "float32"  # or bfloat16
    config.compute.remat = "none"  # or dots, projections, context, full: least memory
    config.compute.attention = "auto"  # or xla, cudnn (GPU), splash (TPU)

    # Or "scores", without curves along alpha and angles between tasks.
    config.report = "full"

    config.loop = ConfigDict()
    config.loop.checkpoint_every = 50  # rounds
    return config
