# SPDX-License-Identifier: Apache-2.0
"""The model that is operated on, its tasks, and what it scores on each."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jax_surgery.benchmarks import model_source
from jax_surgery.benchmarks import tasks as task_files
from jax_surgery.benchmarks.tasks import TaskText
from jax_surgery.checkpoints import hf_weights
from jax_surgery.data.packing import Packer
from jax_surgery.data.tokens import Document
from jax_surgery.methods.subspace.identify import chance_odds
from jax_surgery.methods.subspace.settings import SubspaceSettings
from jax_surgery.metrics.task_scores import Score, score
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.model import Model
from jax_surgery.train import devices

Scores = dict[str, Score]
OVERWRITE_BOUND = 2.0  # nats of log-odds that an answer in another's place is given


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """What a run works on.

    Attributes:
      params, config, tokenizer: of the model.
      source: its directory or hub name.
      texts: of every task, by name.
      settings: of the run.
    """

    params: Any
    config: ModelConfig
    tokenizer: Any
    source: str
    texts: dict[str, TaskText]
    settings: SubspaceSettings

    def model(self, params: Any) -> Model:
        """The model with other parameters."""
        compute = self.settings.compute
        return Model(params, self.config, self.tokenizer, compute, self.source)

    def scores(
        self, params: Any, names: Iterable[str] = (), limit: int | None = None
    ) -> Scores:
        """What parameters score on tasks; all of them where none is named."""
        model = self.model(params)
        return {
            name: score(model, self.texts[name], self.settings.tasks.context, limit)
            for name in names or self.texts
        }

    def documents(self, name: str, limit: int = 0) -> list[Document]:
        """A task's text, or `limit` of it drawn with the run's seed."""
        found = self.texts[name].documents
        if not limit or len(found) <= limit:
            return found
        rng = np.random.default_rng((self.settings.seed, len(found)))
        return [found[i] for i in np.sort(rng.permutation(len(found))[:limit])]


def admit(settings: SubspaceSettings) -> Subject:
    """Reads and checks all tasks, then loads tokenizer and model.

    Raises:
      FileNotFoundError, ValueError: see `data.tasks` and `hf_weights`.
    """
    chosen = settings.tasks
    found = task_files.read_tasks(chosen.source)
    targets = [name for stage in chosen.stages for name in stage]
    if not targets:
        raise ValueError(
            f"config.tasks.targets={chosen.targets!r} names no task to remove or add; "
            f"the tasks of {chosen.source} are {', '.join(found)}."
        )
    for name in targets:
        if name not in found:
            raise ValueError(
                f"config.tasks.targets names {name!r}; the tasks of {chosen.source} are "
                f"{', '.join(found)}."
            )
    if twice := sorted({n for n in targets if targets.count(n) > 1}):
        raise ValueError(f"config.tasks.targets names {twice[0]!r} twice.")
    if chosen.similar != "overlap":
        task_files.similar_to(targets, found, chosen.similar)  # raises early
    source = model_source(settings.model)
    trainable = settings.trainable(hf_weights.load_config(source))
    tokenizer = hf_weights.load_tokenizer(source)
    texts = {
        name: task_files.read_text(task, tokenizer, chosen.context)
        for name, task in found.items()
    }
    moving = None if settings.lora.rank else trainable
    model = devices.load_model(source, settings.compute, moving, tokenizer)
    return Subject(model.params, model.config, tokenizer, source, texts, settings)


def is_known(score: Score, settings: SubspaceSettings) -> bool:
    """Whether a model knows a task: `tasks.known` of what there is beyond chance."""
    return score.value - score.chance > settings.tasks.known * (1 - score.chance)


def kept_tasks(before: Scores, settings: SubspaceSettings, stage: int) -> list[str]:
    """The tasks that a stage keeps: known before, and no target.

    Of what is learned, the targets of earlier stages are kept too.

    Raises:
      ValueError: a target to unlearn that is not known.
    """
    stages, least = settings.tasks.stages, settings.tasks.known
    known = [name for name, score in before.items() if is_known(score, settings)]
    targets = [name for names in stages for name in names]
    if not settings.learns:
        for name in targets:
            if name not in known:
                now = before[name]
                raise ValueError(
                    f"the model does not know the target {name!r}: it scores "
                    f"{now.value:.3f} where chance is {now.chance:.3f}, and "
                    f"config.tasks.known={least} asks for more. Nothing is to be removed."
                )
    earlier = [name for names in stages[:stage] for name in names]
    kept = [name for name in known if name not in targets]
    return kept + earlier if settings.learns else kept


def repeated(groups: Sequence[list[Any]]) -> list[Any]:
    """Members of groups, each group about as often as the largest one has them."""
    most = max((len(group) for group in groups), default=0)
    return [d for group in groups if group for d in (group * -(-most // len(group)))]


@dataclasses.dataclass(frozen=True, eq=False)
class Pushed:
    """Targets' text and how each of its tokens is pushed.

    Attributes:
      packer: the text; each task's is there about as often.
      push: of each token of it: 1 down, -1 up.
      bound: nats of log-odds at which the push ends.
    """

    packer: Packer
    push: np.ndarray
    bound: np.ndarray


def pushed(
    subject: Subject, names: list[str], *, up: bool, half: int | None = None
) -> Pushed:
    """Targets' text, pushed up (to be learned) or down (to be forgotten).

    With `identify.overwrite`, what is forgotten is pushed down, and another text's
    answer up in its place.
    """
    settings = subject.settings
    groups = []
    for name in names:
        documents = subject.documents(name)
        if half is not None:
            documents = documents[half::2]
        if up:
            groups.append([(d, -1.0, settings.identify.learned) for d in documents])
            continue
        chance = subject.texts[name].chance
        bound = chance_odds(chance) if chance else settings.identify.bound
        group = [(d, 1.0, bound) for d in documents]
        if share := settings.identify.overwrite:
            others = overwritten(subject, name)
            group += [(d, -share, OVERWRITE_BOUND) for d in others]
        groups.append(group)
    found = repeated(groups)
    documents = [document for document, _, _ in found]
    tables = [
        np.concatenate(
            [np.full(len(row[0].tokens), row[i], np.float32) for row in found]
        )
        for i in (1, 2)
    ]
    packer = Packer(documents, settings.tasks.context, "tokens")
    return Pushed(packer, *tables)


def overwritten(subject: Subject, name: str) -> list[Document]:
    """A task's text, each with the answer of another one, drawn with the seed.

    The shorter of two answers says how many tokens are exchanged.

    Raises:
      ValueError: all of them have the same answer.
    """
    documents = subject.documents(name)
    order = np.random.default_rng((subject.settings.seed, 1)).permutation(
        len(documents)
    )
    found = []
    answers = [tuple(d.tokens[d.learned].tolist()) for d in documents]
    for place, here in enumerate(order):
        # The next one of the cycle that says something else.
        later = (order[(place + k) % len(order)] for k in range(1, len(order)))
        there = next((i for i in later if answers[i] != answers[here]), None)
        if there is None:
            raise ValueError(
                f"config.identify.overwrite={subject.settings.identify.overwrite:g}: all "
                f"{len(documents)} texts of {name!r} have one answer, so there is no "
                "other to put in its place; use 0."
            )
        document, other = documents[here], documents[there]
        own, new = np.flatnonzero(document.learned), np.flatnonzero(other.learned)
        count = min(len(own), len(new))
        tokens = document.tokens.copy()
        tokens[own[:count]] = other.tokens[new[:count]]
        found.append(Document(tokens, document.learned, document.origin))
    return found
