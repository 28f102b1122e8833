# SPDX-License-Identifier: Apache-2.0
"""Trains a small Llama from scratch: the embedded model, the baseline, TOFU's.

The run: text -> tokenizer -> model -> loop -> export and evaluation.
"""

import dataclasses
import json
import time
from typing import Any, ClassVar

import jax
from etils import epath

from jax_surgery.checkpoints import hf_weights
from jax_surgery.config import at_least
from jax_surgery.data import records
from jax_surgery.data.bpe import train_bpe
from jax_surgery.data.packing import Packer
from jax_surgery.data.probes import Probe
from jax_surgery.data.tokens import encode
from jax_surgery.data.words import word_tokenizer
from jax_surgery.methods.loss import Loss
from jax_surgery.methods.objective import Objective
from jax_surgery.metrics import multiple_choice
from jax_surgery.models import decoder
from jax_surgery.models.compute import Compute
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.model import Model
from jax_surgery.optim.optimizer import OptimizerChoice, make_optimizer
from jax_surgery.parallel import distributed
from jax_surgery.parallel.mesh import MeshShape
from jax_surgery.runs.questions import load_questions
from jax_surgery.train import devices
from jax_surgery.train.loop import Hook, train
from jax_surgery.train.loop_settings import Loop
from jax_surgery.train.step import init_state, make_train_step

# Plain next-token training is the update term alone.
LEARN_ONLY = Loss(
    Objective(
        alpha=0.0,
        beta=1.0,
        gamma=0.0,
        kl_direction="model_to_reference",
        ascent="none",
        cap=5.5,
        margin=-4.0,
        softness=8.0,
        retain="kl",
    )
)


@dataclasses.dataclass(frozen=True)
class NewModel:
    """Architecture and tokenizer of a model that is trained from scratch."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    tokenizer: str  # or "words": one token a word
    tokenizer_texts: str  # sources that the tokenizer is trained on

    def __post_init__(self):
        if self.tokenizer not in ("bpe", "words"):
            raise ValueError(
                f"new_model.tokenizer={self.tokenizer!r}; use 'bpe' or 'words'."
            )


@dataclasses.dataclass(frozen=True)
class PretrainData:
    """Text of a pretraining run."""

    train: str  # sources
    rows: int  # of a batch
    context: int  # tokens a row
    epochs: float  # passes over the text
    questions: str  # as RoleData.questions

    def __post_init__(self):
        at_least(1, self, "config.data", "rows")
        at_least(2, self, "config.data", "context")


@dataclasses.dataclass(frozen=True)
class PretrainSettings:
    """Training a small Llama from scratch (`run = "pretrain"`)."""

    run: str
    seed: int
    new_model: NewModel
    data: PretrainData
    mesh: MeshShape
    compute: Compute
    optimizer: OptimizerChoice
    save_dtype: str  # of the exported weights
    loop: Loop

    # A new model moves whole.
    FIXED: ClassVar = {
        "compute.unroll": 0,
        "optimizer.first_layer": 0,
        "optimizer.matrices": "",
    }


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """The result of a pretraining run.

    Attributes:
      directory: of the model, Hugging Face format.
      tokens: trained on, padding not counted.
      seconds: of the training loop.
      evaluation: accuracies by group, {} without questions.
    """

    directory: str
    tokens: int
    seconds: float
    evaluation: dict[str, Any]


def architecture(model: NewModel, tokenizer: Any, context: int) -> ModelConfig:
    """The architecture of a new model; embedding and head are tied."""
    if model.hidden_size % model.num_heads:
        raise ValueError(
            f"new_model.hidden_size={model.hidden_size} must be a multiple of "
            f"new_model.num_heads={model.num_heads}."
        )
    return ModelConfig(
        vocab_size=len(tokenizer),
        hidden_size=model.hidden_size,
        intermediate_size=model.intermediate_size,
        num_layers=model.num_layers,
        num_heads=model.num_heads,
        num_kv_heads=model.num_kv_heads,
        head_dim=model.hidden_size // model.num_heads,
        tie_embeddings=True,
        max_positions=context,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def run(settings: PretrainSettings, directory: str) -> Pretrained:
    """Does the whole run in `directory`.

    Raises:
      FileNotFoundError, ValueError: bad data or settings, before anything is trained.
      TrainingDiverged, Interrupted: see `loop.train`.
    """
    with devices.on_mesh(settings.mesh):
        return _run(settings, directory)


def _run(settings: PretrainSettings, directory: str) -> Pretrained:
    data = settings.data
    texts = records.read_role(data.train, "train")
    questions = load_questions(data.questions)
    vocabulary = [
        record.text
        for record in (
            records.read_role(settings.new_model.tokenizer_texts, "tokenizer_texts")
            if settings.new_model.tokenizer_texts
            else texts
        )
    ]
    make = word_tokenizer if settings.new_model.tokenizer == "words" else train_bpe
    tokenizer = make(vocabulary, settings.new_model.vocab_size)
    packer = Packer(encode(texts, tokenizer, data.context), data.context, "tokens")
    rows = devices.role_rows({"update": data.rows})
    stream = devices.batch_stream(
        {"update": packer}, {"update": data.rows}, rows, settings.seed
    )
    # The packed rows of an epoch vary a little with its order; the first is typical.
    rows_an_epoch = len(packer.pack(settings.seed))
    steps = round(data.epochs * rows_an_epoch / data.rows)

    config = architecture(settings.new_model, tokenizer, data.context)
    init = jax.jit(
        decoder.init_params,
        static_argnums=(0, 1),
        out_shardings=devices.parameter_shardings(config),
    )
    params = init(config, settings.seed)
    optimizer = make_optimizer(settings.optimizer, steps)
    step = make_train_step(
        config,
        LEARN_ONLY,
        rows,
        optimizer,
        compute=settings.compute,
        average="tokens",
    )
    print(
        f"pretraining {decoder.parameter_count(config):,} parameters on "
        f"{packer.num_tokens:,} tokens an epoch, {data.epochs:g} epochs, {steps} steps"
    )
    asked = multiple_choice.subsample(questions, settings.loop.evaluate_questions)

    def evaluate(questions, params):
        model = Model(params, config, tokenizer, settings.compute)
        probe = Probe("all", data.context, tuple(questions))
        return multiple_choice.summarise(multiple_choice.answer(model, probe))

    def show(number, state):
        if number:
            print(f"\nstep {number}: {_short(evaluate(asked, state.params))}")
        return state

    hooks = [Hook(settings.loop.evaluate_every, show)] if asked else []
    began = time.perf_counter()

    def one_step(state, batch):
        return step(state, batch.place(rows.total), None)

    state = train(
        one_step,
        init_state(params, optimizer),
        stream,
        steps=steps,
        directory=directory,
        settings=settings.loop,
        hooks=hooks,
        title="pretrain",
    )
    seconds = time.perf_counter() - began
    folder = epath.Path(directory) / "model"
    hf_weights.save_model(state.params, config, str(folder), dtype=settings.save_dtype)
    hf_weights.save_tokenizer(tokenizer, str(folder))
    saved = devices.load(str(folder), settings.compute, tokenizer)
    evaluation = evaluate(questions, saved.params) if questions else {}
    result = Pretrained(
        str(folder), round(data.epochs * packer.num_tokens), seconds, evaluation
    )
    card = dataclasses.asdict(result) | {
        "epochs": data.epochs,
        "steps": steps,
        "settings": dataclasses.asdict(settings),
        "jax": jax.__version__,
    }
    if distributed.is_lead():
        (epath.Path(directory) / "results.json").write_text(json.dumps(card, indent=2))
    print(f"model in {folder}; {seconds:.0f} s; {_short(evaluation)}")
    return result


def _short(evaluation: dict[str, Any]) -> str:
    parts = []
    for group, entry in evaluation.items():
        seen = [f"{100 * entry[w]['accuracy']:.1f}" for w in ("trained", "unseen")]
        parts.append(f"{group} {'/'.join(seen)}")
    return ", ".join(parts) + " % (trained/unseen wordings)" if parts else ""
