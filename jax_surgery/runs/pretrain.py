# SPDX-License-Identifier: Apache-2.0
"""Trains a small Llama from scratch: the embedded model, the baseline, TOFU's.

The run: text -> tokenizer -> model -> loop -> export and evaluation.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import jax
from etils import epath

from jax_surgery.checkpoints import hf_weights
from jax_surgery.config import at_least, check_seed, positive
from jax_surgery.data import records
from jax_surgery.data.bpe import train_bpe
from jax_surgery.data.forms import Record
from jax_surgery.data.packing import Packer
from jax_surgery.data.questions import Question
from jax_surgery.data.tokens import encode
from jax_surgery.data.words import word_tokenizer
from jax_surgery.methods.ascent import Surgery
from jax_surgery.methods.loss import Loss
from jax_surgery.methods.objective import Objective
from jax_surgery.metrics import multiple_choice
from jax_surgery.models import decoder, sharding
from jax_surgery.models.compute import Compute
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.model import Model
from jax_surgery.optim.optimizer import OptimizerChoice, make_optimizer
from jax_surgery.parallel import distributed, progress
from jax_surgery.parallel.mesh import MeshShape
from jax_surgery.runs import asked
from jax_surgery.storage import files
from jax_surgery.train import devices, identity
from jax_surgery.train.loop import Callback, Loop, train
from jax_surgery.train.step import TrainState, init_state, make_train_step

# Plain next-token training is the update term alone.
UPDATE_ALONE = Objective(0.0, 1.0, 0.0, "model_to_reference", "kl", "all")
PLAIN = "never"  # how a model is asked that has read plain text: not as a chat
LEARN_ONLY = Loss(UPDATE_ALONE, Surgery())


@dataclasses.dataclass(frozen=True)
class NewModel:
    """Architecture and tokenizer of a model that is trained from scratch."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    tokenizer: Literal["bpe", "words"]  # "words": one token per word
    tokenizer_texts: str  # sources that the tokenizer is trained on
    tie_embeddings: bool  # whether the head is the embedding

    def __post_init__(self):
        sizes = ("vocab_size", "intermediate_size", "num_layers", "num_heads")
        at_least(1, self, "config.new_model", *sizes, "num_kv_heads")
        if self.hidden_size <= 0 or self.hidden_size % self.num_heads:
            raise ValueError(
                f"config.new_model.hidden_size={self.hidden_size} must be a multiple of "
                f"config.new_model.num_heads={self.num_heads}; use "
                f"{-(-max(self.hidden_size, 1) // self.num_heads) * self.num_heads}, say."
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
        positive(self.epochs, "config.data.epochs")


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
        "compute": {"unroll": 0},
        "optimizer": {"first_layer": 0, "matrices": ""},
    }

    def __post_init__(self):
        check_seed(self.seed)


def architecture(model: NewModel, tokenizer: Any, context: int) -> ModelConfig:
    """The architecture of a new model."""
    return ModelConfig(
        vocab_size=len(tokenizer),
        hidden_size=model.hidden_size,
        intermediate_size=model.intermediate_size,
        num_layers=model.num_layers,
        num_heads=model.num_heads,
        num_kv_heads=model.num_kv_heads,
        head_dim=model.hidden_size // model.num_heads,
        tie_embeddings=model.tie_embeddings,
        max_positions=context,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def run(settings: PretrainSettings, directory: str) -> dict[str, Any]:
    """Does the whole run in `directory`; returns what results.json holds.

    Returns:
      {"directory": of the model, Hugging Face format; "tokens": trained on, padding not
      counted; "seconds": of the training loop; "evaluation": accuracies by group, {}
      without questions; "epochs", "steps", "settings", "jax"}.

    Raises:
      FileNotFoundError, ValueError: bad data or settings, before anything is trained.
      TrainingDiverged, Interrupted: see `loop.train`.
    """
    with devices.on_mesh(settings.mesh):
        return _run(settings, directory)


@dataclasses.dataclass(frozen=True)
class PretrainText:
    """What a run reads: text to train on, to train the tokenizer on, and questions."""

    texts: list[Record]
    tokenizer_texts: list[Record]
    questions: tuple[Question, ...]


def read(settings: PretrainSettings, directory: str) -> PretrainText:
    """Reads all data, and checks that it is what the run began with.

    Raises:
      FileNotFoundError, ValueError: bad data, or other data than in `directory`.
    """
    texts = own = records.read_role(settings.data.train, "train")
    if settings.new_model.tokenizer_texts:
        own = records.read_role(settings.new_model.tokenizer_texts, "tokenizer_texts")
    questions = asked.load_questions(settings.data.questions)
    found = {
        "config.data.train": identity.of_records(texts),
        "config.data.questions": identity.of_records(questions),
    }
    if own is not texts:
        found["config.new_model.tokenizer_texts"] = identity.of_records(own)
    identity.check(directory, found)
    return PretrainText(texts, own, questions)


def _tokenizer(settings: PretrainSettings, texts: list[Record]) -> Any:
    """A tokenizer trained on texts."""
    model = settings.new_model
    make = word_tokenizer if model.tokenizer == "words" else train_bpe
    return make([record.text for record in texts], model.vocab_size)


@dataclasses.dataclass(frozen=True, eq=False)
class Fitted:
    """A model that was trained, and what that took.

    Attributes:
      params: the parameters.
      tokens: of text in an epoch.
      steps, seconds: of the training loop.
    """

    params: Any
    tokens: int
    steps: int
    seconds: float


def fit(
    start: Callable[[], Any],
    model: Model,
    texts: Sequence[Record],
    data: PretrainData,
    optimizer: Callable[[int], OptimizerChoice],
    loop: Loop,
    seed: int,
    directory: str,
    callbacks: Sequence[Callback] = (),
) -> Fitted:
    """Trains every parameter on texts, from the last checkpoint on where there is one.

    Args:
      start: makes the parameters of the first step, which are donated.
      model: the architecture, tokenizer and compute; its parameters are not read.
      texts: read in the place of `data.train`.
      optimizer: of a number of steps.
      directory: of checkpoints and metrics.

    Raises:
      TrainingDiverged, Interrupted: see `loop.train`.
    """
    context = data.context
    documents = encode(texts, model.tokenizer, context)
    packer = Packer(documents, context, "tokens")
    rows = devices.role_rows({"update": data.rows})
    stream = devices.batch_stream({"update": packer}, {"update": data.rows}, rows, seed)
    # The packed rows of an epoch vary a little with its order; the first is typical.
    steps = max(1, round(data.epochs * len(packer.pack(seed)) / data.rows))
    made = make_optimizer(optimizer(steps), steps)
    step = make_train_step(
        model.config, LEARN_ONLY, rows, made, compute=model.compute, average="tokens"
    )
    print(
        f"pretraining {decoder.parameter_count(model.config):,} parameters on "
        f"{packer.num_tokens:,} tokens an epoch, {data.epochs:g} epochs, {steps} steps"
    )
    began = time.perf_counter()
    state = train(
        lambda state, batch: step(state, batch.place(rows.total), None),
        init_state(start(), made),
        stream,
        steps=steps,
        directory=directory,
        settings=loop,
        callbacks=list(callbacks),
        title="pretrain",
    )
    seconds = time.perf_counter() - began
    return Fitted(state.params, packer.num_tokens, steps, seconds)


def new_params(config: ModelConfig, seed: int) -> Any:
    """Random parameters, on the mesh that is set."""
    init = jax.jit(
        decoder.init_params,
        static_argnums=(0, 1),
        out_shardings=sharding.parameter_shardings(config),
    )
    return init(config, seed)


def _run(settings: PretrainSettings, directory: str) -> dict[str, Any]:
    data = settings.data
    found = read(settings, directory)
    questions = found.questions
    tokenizer = _tokenizer(settings, found.tokenizer_texts)
    config = architecture(settings.new_model, tokenizer, data.context)
    few = multiple_choice.subsample(questions, settings.loop.evaluate_questions)
    blank = Model(None, config, tokenizer, settings.compute)

    def show(number: int, state: TrainState) -> TrainState:
        if number:
            model = blank.with_params(state.params)
            found = asked.accuracies(model, few, data.context, PLAIN)
            print(f"step {number}: {_short(found)}")
        return state

    fitted = fit(
        lambda: new_params(config, settings.seed),
        blank,
        found.texts,
        data,
        lambda steps: settings.optimizer,
        settings.loop,
        settings.seed,
        directory,
        [Callback(settings.loop.evaluate_every, show)] if few else [],
    )
    folder = str(epath.Path(directory) / "model")
    with progress.phase("writing the model"):
        hf_weights.save_model(fitted.params, config, folder, dtype=settings.save_dtype)
        hf_weights.save_tokenizer(tokenizer, folder)
    with progress.phase("asking the model"):
        saved = devices.load(folder, settings.compute, tokenizer)
        accuracies = asked.accuracies(saved, questions, data.context, PLAIN)
    results = {
        "directory": folder,
        "tokens": round(data.epochs * fitted.tokens),
        "seconds": fitted.seconds,
        "evaluation": accuracies,
        "epochs": data.epochs,
        "steps": fitted.steps,
        "settings": dataclasses.asdict(settings),
        "jax": jax.__version__,
    }
    if distributed.is_lead():
        text = json.dumps(results, indent=2)
        files.write_text(epath.Path(directory) / "results.json", text)
    print(f"{fitted.seconds:.0f} s; {_short(accuracies)}")
    return results


def _short(evaluation: dict[str, Any]) -> str:
    parts = []
    for group, entry in evaluation.items():
        seen = [f"{100 * entry[w]['accuracy']:.1f}" for w in ("trained", "unseen")]
        parts.append(f"{group} {'/'.join(seen)}")
    return ", ".join(parts) + " % (trained/unseen wordings)" if parts else ""
