# SPDX-License-Identifier: Apache-2.0
"""LLM Surgery (arXiv 2409.13054) on embedded or your own text.

Hardware: 2 CPU cores, 2 GiB, under 3 minutes with the embedded model.
Expected, mean of three seeds: obsolete 29 %, problematic 28 % (chance is 25), update
97 %, retained 99.0 %, general 88.5 %, at 1/51 of the naive alternative's FLOPs
(results/paper_table.py).

Command to run:
python -m jax_surgery.main --config=configs/surgery.py

Your own checkpoint and text (a directory in Hugging Face format or a hub name, and
JSONL files with `text`, `prompt` and `answer`, `question` and `answer`, or `messages`):
python -m jax_surgery.main --config=configs/surgery.py --config.model=DIR \
    --config.data.unlearn=forget.jsonl --config.data.update=new.jsonl \
    --config.data.retain=keep.jsonl --config.data.questions=

The paper's printed objective, to compare with: configs/paper_formula.py; what its authors
ran: configs/paper.py.
"""

from ml_collections import ConfigDict


class Roles(ConfigDict):
    """A section with a field `update`, which hides ConfigDict's method of that name;
    without this --config.data.update=FILE would be read as the method."""

    @property
    def update(self) -> str:  # pyrefly: ignore[bad-override]
        """The sources of the update role."""
        return self["update"]


def rounds() -> ConfigDict:
    """The rounds of the subspace method."""
    section = ConfigDict()
    section.number = 150  # at most
    section.step = 5e-3  # of the norm of the moving matrices
    section.stop = 0.99  # removed; 0 takes all rounds
    # Of the change; 0 keeps all, and -1 all of matrices up to 256 wide, 64 of wider ones.
    section.rank = -1
    # Of the change in the end; 0 seeks the smallest for stop, where other contexts than
    # the texts' own may still bring the answers back.
    section.alpha = 1.0
    section.first_layer = 0  # layers before it are frozen; negative: from the end
    section.matrices = "q,k,v,o,gate,up,down"  # that move; "" is all
    return section


def get_config() -> ConfigDict:
    """The default config of a surgery."""
    config = ConfigDict()
    config.run = "surgery"
    config.model = "embedded"  # "embedded", a directory, or a hub name
    config.seed = 0
    # How weights change: "surgery"; or another loss, such as "npo" (docs/methods.md has all),
    # with options after a colon, as in "surgery:margin=-8"; or MODULE.CLASS of your own.
    # Or stages of methods, each of the roles after its @, such as
    # "surgery@update;subspace@unlearn": update by descent, then unlearn by subspaces
    # (configs/unlearn.py), which retain the update. Retained text takes part in both.
    # The other way round steps of descent may bring back what was unlearned.
    config.method = "surgery"

    # One that is asked too, such as "suite:targets=dict_a"; its groups are the text of
    # roles that have no sources below.
    config.benchmark = ""

    config.data = Roles()
    # Sources; one named twice is read twice, and "0.5*SOURCE" has a weight of its own. The update set helps obsolete facts go,
    # so problematic ones get the larger share.
    config.data.unlearn = "embedded:obsolete,embedded:problematic,embedded:problematic"
    config.data.update = "embedded:update"
    config.data.retain = "embedded:retain,embedded:general"  # all that is retained
    config.data.rows_unlearn = 7  # rows of a batch
    config.data.rows_update = 3
    config.data.rows_retain = 1
    config.data.context = 256  # tokens a row
    config.data.average = "tokens"  # or "sequences", as the paper
    config.data.surprise = (
        2.5  # nats; unlearn tokens that retained text does not foresee
    )
    config.data.questions = "embedded"  # a questions JSONL, or "" for none
    # Whether questions are asked in the model's chat template: "auto" where it has one,
    # "always", or "never". That of models trained here, on plain text, is no such one.
    config.data.chat = "auto"
    # Paraphrases, and as many descriptions, of each record that the model writes by itself
    # in its chat template (StableKE); 0 is none. In files both stand beside a record.
    config.data.enrich_update = 0
    config.data.enrich_retain = 0
    # Where sources "paper:NAME" are: configs/paper.py.
    config.data.paper = ""

    # What the model says by itself, before and after: prompts of a group that are asked;
    # 0 asks none, and -1 asks 64 of a model that has a chat template of its own.
    config.free_form = -1
    # Tried on the finished model, with the questions about what was to go: is it removed,
    # or hidden? Names of configs/attack.py; those that train nothing take seconds.
    config.attacks = "blocks;exits;quantisation"

    config.mesh = ConfigDict()
    config.mesh.data = 0  # copies of the model; 0 is one for each TPU slice
    config.mesh.fsdp = 0  # devices that share its weights; 0 is all that are left
    config.mesh.tp = 1  # devices that share each layer's products

    config.compute = ConfigDict()
    config.compute.dtype = "float32"  # or bfloat16
    config.compute.remat = "none"  # or dots, projections, context, full: least memory
    config.compute.attention = "auto"  # or xla, cudnn (GPU), splash (TPU)

    config.objective = ConfigDict()
    config.objective.alpha = 2.5  # unlearn
    config.objective.beta = 7.0  # update
    config.objective.gamma = 100.0  # retain
    config.objective.kl_direction = "reference_to_model"  # KL(p_pre || p_theta)
    config.objective.retain = "kl"  # or "nll", the text's own CE, without reference
    # Where the KL is taken: "all", or "learned", answers and plain text alone; or "padded",
    # which divides by the padding of other codes too.
    config.objective.retained_positions = "all"

    # configs/robust.py: unlearning inside the model, not at its output alone.
    config.inside = ConfigDict()
    config.inside.lens = 0.0  # weight of the terms of states inside; 0 is none
    config.inside.silenced = 0.0  # share of unlearn rows without a part of a layer
    config.inside.copies = 0  # steps after which another copy relearns; 0 for none
    config.inside.copy_share = 0.5  # of steps that unlearn what the copy has relearned
    config.inside.copy_steps = 8  # of Adam, at most
    config.inside.copy_rate = 1e-3  # of Adam, at most
    config.inside.copy_rows = 4  # of each of these steps

    # configs/automatic.py: a run that keeps to a budget and sets its own weights.
    config.retain = ConfigDict()
    config.retain.budget = 0.0  # nats per token on held-out text; 0: as set below
    config.retain.complete = False  # retain also what the model writes by itself
    config.retain.many = ""  # of a run with a budget and much text: its optimizer

    config.reference = "live"  # or "cached" on disk
    config.reference_model = (
        ""  # the frozen one, as model; "" is the model before the run
    )
    config.steps = 52
    config.accumulate = 1  # micro-batches a step

    # Low-rank deltas; with adamw, adafactor or sgd, and optimizer.matrices="".
    config.lora = ConfigDict()
    config.lora.rank = 0  # of the deltas; 0 trains the parameters themselves
    config.lora.alpha = 16.0  # deltas are multiplied by alpha / rank
    config.lora.matrices = "q,k,v,o,gate,up,down"  # that have deltas

    config.optimizer = ConfigDict()
    # Or "natural", "kfac"; or without a preconditioner "adamw", "adafactor", "sgd", "muon".
    config.optimizer.name = "orthogonal"
    config.optimizer.first_layer = -1  # layers before it are frozen
    config.optimizer.matrices = "gate,up,down"  # that move; "" is all
    # Largest step, relative to the weights (with a preconditioner); else the peak rate,
    # to begin with 3e-4 (adamw, adafactor, muon).
    config.optimizer.learning_rate = 0.088
    config.optimizer.momentum = 0.6  # 0 is none (preconditioned, sgd, muon)
    config.optimizer.warmup = 0  # steps
    config.optimizer.schedule = "linear"  # to 0; or "cosine", to 0; "constant"
    config.optimizer.clip = 1.0  # gradient norm; 0 is none (not preconditioned)
    config.optimizer.weight_decay = 0.0  # not of norms (not preconditioned)
    config.optimizer.b1 = 0.9  # (adamw, muon)
    config.optimizer.b2 = 0.999  # (adamw, muon)
    config.optimizer.moment_dtype = "float32"  # or bfloat16 (adamw, sgd, muon)
    config.optimizer.second_moment_dtype = "float32"  # or bfloat16 (adamw, muon)

    config.statistics = ConfigDict()
    config.statistics.sources = ""  # text to be retained; "" is data.retain
    config.statistics.tokens = 30_000  # read for them; 0 reads all
    config.statistics.ridge = 1e-5  # relative to what scale says
    config.statistics.scale = "mean"  # eigenvalue; or "inputs", each one's own moment

    config.rounds = rounds()  # of stages by subspaces

    config.loop = ConfigDict()
    config.loop.evaluate_every = 10  # steps; 0 only before and after
    config.loop.checkpoint_every = 20  # steps

    # When to stop, beside steps; with a rule the Pareto front of the run is kept in front/,
    # and the point of it that the rules choose is exported.
    config.stop = ConfigDict()
    # At the first evaluation where no group to be unlearned is above it: "chance", a score
    # from 0 to 1, or the workdir of a run whose model never knew; "" is no rule.
    config.stop.reference = ""
    config.stop.retention = (
        0.0  # drop of the retained score that ends a run; 0: no rule
    )
    config.stop.keep = 4  # models of the front, at most; 0 keeps all

    # Passes over update and retained text in which the naive alternative learns them:
    # what the cost is compared with. 0: not known, but for the embedded world.
    config.baseline_epochs = 0.0

    # Of the exported weights: "" is the dtype that the model came in; or float32,
    # bfloat16, float16. Changes too small for 16 bits are not rounded away.
    config.save_dtype = ""
    return config
