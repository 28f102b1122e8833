# SPDX-License-Identifier: Apache-2.0
"""UNLEARN (arXiv 2408.04140): takes a task out of the weights and keeps all others.

Hardware: 2 CPU cores, 2 GiB.

Command to run:
python -m jax_surgery.main --config=configs/unlearn.py --config.tasks.targets=dict_a

Your own checkpoint and tasks (JSONL, a task a line; see jax_surgery/benchmarks/tasks.py):
python -m jax_surgery.main --config=configs/unlearn.py --config.model=DIR \
    --config.tasks.source=tasks.jsonl --config.tasks.targets=addresses

What is left out of the model lies in edit.safetensors beside it (configs/edit.py).

The paper, as its figure shows it, to compare with (it does not work: random weights
have no basis in common with the model's):
python -m jax_surgery.main --config=configs/unlearn.py --config.rounds.mode=one_shot \
    --config.identify.start=random --config.identify.order=first_to_last \
    --config.identify.loss=cross_entropy --config.identify.temperature=1.0 \
    --config.identify.adam=1e-3 --config.rounds.number=160 \
    --config.discriminate.method=gram_schmidt --config.tasks.targets=dict_a
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The default config of a removal."""
    config = ConfigDict()
    config.run = "unlearn"
    config.model = "suite"  # "suite", "embedded", a directory, or a hub name
    config.seed = 0

    config.tasks = ConfigDict()
    config.tasks.source = "suite"  # or a JSONL file of tasks
    config.tasks.targets = "dict_a"  # "a,b" together, "a;b" one after the other
    config.tasks.similar = "family"  # to the targets; "overlap", or names
    config.tasks.overlap = 0.38  # of "overlap": the least mean squared cosine of angles
    config.tasks.known = 0.1  # least score beyond chance, of its most, to be kept
    config.tasks.records = 1000  # of each kept task that are read; 0 reads all
    config.tasks.context = 128  # tokens a row
    config.tasks.rows = 4  # of targets' text in a round
    config.tasks.rows_kept = 8  # of kept text in a round; 0 with discriminate.guard=0

    config.identify = ConfigDict()
    config.identify.loss = "margin"  # or "cross_entropy"
    config.identify.temperature = 4.0  # of the logits ("cross_entropy")
    # Nats of log-odds: where forgetting ends (those of chance, where the task says it),
    # and where learning ends.
    config.identify.bound = -3.0
    config.identify.learned = 6.0
    # Push of other texts' answers in the place of forgotten ones; 0 is none. With 1.0
    # facts come back far less when some of them are trained again.
    config.identify.overwrite = 0.0
    config.identify.order = "joint"  # of layers; or "cyclic", "first_to_last"
    config.identify.start = "pretrained"  # or "random" (with rounds.mode="one_shot")
    config.identify.adam = 0.0  # rate of Adam's steps; 0 takes plain ones

    config.discriminate = ConfigDict()
    config.discriminate.method = "ridge"  # or "gram_schmidt" (the paper), "none"
    config.discriminate.ridge = 1e-3  # relative to the mean eigenvalue
    config.discriminate.similar_weight = 5.0  # of similar tasks' text in the moments
    config.discriminate.refresh = 6  # rounds between recomputations; 0 for once
    config.discriminate.rank = 16  # singular vectors of each task ("gram_schmidt")
    config.discriminate.guard = 1.0  # push of kept tokens below guard_bound; 0 is none
    # Nats of log-odds, or where the token was if that is lower ("margin"; by cross
    # entropy kept tokens are pushed without end).
    config.discriminate.guard_bound = 4.0

    config.rounds = ConfigDict()
    config.rounds.mode = "rounds"  # or "one_shot" (the paper)
    config.rounds.number = 150  # at most
    config.rounds.step = 5e-3  # of the norm of the moving matrices
    config.rounds.schedule = "constant"  # of the step; or "cosine", to 0
    config.rounds.stop = 0.99  # removed; 0 takes all rounds
    config.rounds.mend = 8  # passes at most that give back kept answers; 0 is none
    config.rounds.mend_rounds = 4  # of a pass
    config.rounds.rank = 0  # of the change; 0 keeps all
    config.rounds.cut_every = 3  # rounds between cuts to the rank; 0: at the end alone
    # Of T' in the end; 0 seeks the smallest for stop, where other contexts than the
    # texts' own may still bring the answers back.
    config.rounds.alpha = 1.0
    config.rounds.first_layer = 0  # layers before it stay; negative: from the end
    config.rounds.matrices = "q,k,v,o,gate,up,down"  # that move; "" is all

    # Removal from copies that have relearned the targets, so that they stay away.
    config.harden = ConfigDict()
    config.harden.copies = 0  # 6 lasts long; 0 is none
    config.harden.steps = 10  # of Adam, that a copy relearns half of the text
    config.harden.rate = 3e-4  # of Adam
    config.harden.rounds = 6  # of removal from each copy
    config.harden.statistics = "model"  # whose inputs the ridge reads; or "copy"

    config.statistics = ConfigDict()
    config.statistics.cache = ""  # folder that runs share; "" is the workdir's
    config.statistics.save_every = 200  # batches

    # Low-rank adapters instead (adamw, adafactor or sgd).
    config.lora = ConfigDict()
    config.lora.rank = 0
    config.lora.alpha = 16.0  # deltas are multiplied by alpha / rank
    config.lora.matrices = "q,k,v,o,gate,up,down"  # that have deltas
    config.adapter = ""  # directory in PEFT's format to go on from

    config.optimizer = ConfigDict()  # of adapters
    config.optimizer.name = "adamw"
    config.optimizer.first_layer = 0
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "constant"  # or "cosine", "linear"
    config.optimizer.warmup = 0  # steps
    config.optimizer.clip = 1.0  # gradient norm; 0 is none
    config.optimizer.weight_decay = 0.0

    config.mesh = ConfigDict()
    config.mesh.data = 0  # copies of the model; 0 is one for each TPU slice
    config.mesh.fsdp = 0  # devices that share its weights; 0 is all that are left
    config.mesh.tp = 1  # devices that share each layer's products

    config.compute = ConfigDict()
    config.compute.dtype = "float32"  # or bfloat16
    config.compute.remat = "none"  # or dots, projections, context, full: least memory
    config.compute.unroll = 0  # layers a scan step; 0 chooses
    config.compute.attention = "auto"  # or xla, cudnn (GPU), splash (TPU)

    config.report = ConfigDict()
    config.report.alphas = "0,0.5,0.75,0.9,1,1.1,1.25,1.5,2"  # "" leaves curves out
    config.report.records = 200  # of each task along the curves
    config.report.angles = 8  # singular vectors of each task; 0: no angles

    config.loop = ConfigDict()
    config.loop.log_every = 1  # rounds
    config.loop.checkpoint_every = 50  # rounds
    config.loop.keep = 1  # checkpoints
    config.loop.explode_factor = 20.0
    return config
