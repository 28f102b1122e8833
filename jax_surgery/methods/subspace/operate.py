# SPDX-License-Identifier: Apache-2.0
"""The rounds of a stage: targets go, or come, while kept tasks stay."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath

from jax_surgery.data.batch import Batch
from jax_surgery.data.packing import Packer
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.data.stream import BatchStream
from jax_surgery.methods.subspace import identify, learn, rounds, statistics
from jax_surgery.methods.subspace.goal import Goal
from jax_surgery.methods.subspace.kept import KeptText
from jax_surgery.methods.subspace.remove import remove
from jax_surgery.methods.subspace.subject import Scores, Subject, pushed
from jax_surgery.models import llama
from jax_surgery.models.trainable import Matrices
from jax_surgery.optim.precondition import discriminate
from jax_surgery.optim.precondition import ridge as ridges
from jax_surgery.optim.precondition.moments import zero_moments
from jax_surgery.train import devices
from jax_surgery.train.loop import Hook, train


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """Targets that are worked on together.

    Attributes:
      subject: the model as it came.
      params: as the stage finds them; the model's own in the first.
      targets, kept: names of tasks.
      similar: of the kept ones, those that are similar to a target.
      before: scores of the model as it came.
      directory: of the stage, for checkpoints and metrics.
    """

    subject: Subject
    params: Any
    targets: list[str]
    kept: list[str]
    similar: set[str]
    before: Scores
    directory: str

    @functools.cached_property
    def kept_text(self) -> KeptText:
        """The text of `kept`, of which there is at least one."""
        return KeptText(self.subject, self.kept, self.similar, self.params)

    @functools.cached_property
    def goal(self) -> Goal:
        """Where its targets are to go."""
        return Goal(self.subject, self.targets, self.before, self.params)


class Mending(NamedTuple):
    """Rounds that give back what others have cost.

    Attributes:
      params: where they begin.
      kept: what is known of the kept tasks; given up, as `params` are.
      lost: places in `Stage.kept_text` of what they cost.
      resting: whether the targets are not pushed.
      share: of the step that the run's settings say.
      directory: for checkpoints and metrics.
    """

    params: Any
    kept: discriminate.Kept
    lost: np.ndarray
    resting: bool
    share: float
    directory: str


def copied(params: Any) -> Any:
    """A copy: a round gives up the parameters that it is given."""
    return jax.tree.map(jnp.copy, params)


def rounds_of(subject: Subject) -> rounds.Rounds:
    """How a run's settings take rounds."""
    s = subject.settings
    once = s.rounds.mode == "one_shot"
    return rounds.Rounds(
        subject.config,
        s.compute,
        s.trainable(subject.config),
        s.identify.task_loss,
        s.rounds.number,
        s.rounds.step,
        s.rounds.schedule == "cosine",
        s.identify.order,
        s.identify.adam,
        0 if once else s.discriminate.rank,
    )


class Pushes:
    """A stage's batches: which tokens are pushed, which way, and how far."""

    def __init__(
        self,
        stage: Stage,
        targets: list[str],
        *,
        up: bool,
        guarded: bool,
        half: int | None = None,
        seed: int = 0,
        lost: Sequence[int] = (),
    ):
        """Packs targets' and kept tasks' text.

        Args:
          stage: whose kept tasks are guarded.
          targets: whose text is pushed.
          up: whether it is to be learned; else it is to be forgotten.
          guarded: whether kept tasks' text is pushed up where it falls.
          half: 0 or 1, of the targets' text; None is all.
          seed: beside the run's, of the order.
          lost: places in `stage.kept_text` of what is guarded as much as all the rest.
        """
        subject = stage.subject
        settings = subject.settings
        self._seed = settings.seed + seed
        self._role = "update" if up else "unlearn"
        self._pushed = pushed(subject, targets, up=up, half=half)
        packer = self._pushed.packer
        self.packers = {self._role: packer}
        wanted = {self._role: settings.tasks.rows}
        guard = settings.discriminate
        self._guard = guard.guard if guarded and stage.kept else 0.0
        if self._guard:
            kept, self._guard_bounds = stage.kept_text.guarded(lost)
            self.packers["retain"] = kept
            wanted["retain"] = settings.tasks.rows_kept
            self._guard *= _learned(packer) / _learned(kept)
            self._guard *= wanted[self._role] / wanted["retain"]
        self.wanted = wanted
        self.rows: RoleRows = devices.role_rows(wanted)

    def rest(self) -> None:
        """From now on the targets are not pushed."""
        self._pushed = dataclasses.replace(
            self._pushed, push=np.zeros_like(self._pushed.push)
        )

    def stream(self) -> BatchStream:
        """Endless batches of both."""
        return devices.batch_stream(self.packers, self.wanted, self.rows, self._seed)

    def batch(self, batch: Batch) -> Batch:
        """A batch of the stream on the devices, with what the subspace method reads."""
        index_BT = batch.token_index_BT
        target_B = self.rows.holds(self._role, len(index_BT))
        push_BT = np.full(index_BT.shape, -self._guard, np.float32)
        bound_BT = np.zeros(index_BT.shape, np.float32)
        push_BT[target_B] = self._pushed.push[index_BT[target_B]]
        bound_BT[target_B] = self._pushed.bound[index_BT[target_B]]
        if self._guard:
            bound_BT[~target_B] = self._guard_bounds[index_BT[~target_B]]
        weighted = batch.text.replace(
            token_weights_BT=push_BT * batch.weights_BT, target_log_odds_BT=bound_BT
        )
        return weighted.place(self.rows.total)


def _learned(packer: Packer) -> float:
    """Learned tokens of a real one."""
    return packer.learned.mean()


def operate(stage: Stage) -> Any:
    """The parameters after a stage's rounds, or after its single subtraction."""
    if stage.subject.settings.rounds.mode == "one_shot":
        return _one_shot(stage)
    return in_rounds(stage)[0]


def in_rounds(
    stage: Stage, mending: Mending | None = None
) -> tuple[Any, discriminate.Kept]:
    """The parameters after as many rounds as the goal needs, and what was known of the
    kept tasks in the last of them.

    Args:
      stage: where they begin, and what they remove or add.
      mending: rounds that are all taken, of smaller steps, from somewhere else.
    """
    subject, settings = stage.subject, stage.subject.settings
    how, lost = rounds_of(subject), mending.lost if mending else ()
    pushes = Pushes(stage, stage.targets, up=settings.learns, guarded=True, lost=lost)
    if mending and mending.resting:
        pushes.rest()
    until = None
    base = how.trainable.take(subject.params)
    cut, every = settings.rounds.rank, settings.rounds.cut_every

    def trimmed(params: Any) -> Any:
        return learn.truncated(params, base, cut, how.trainable) if cut else params

    def one_round(state: rounds.State, batch: Batch):
        state, metrics = rounds.take_round(how, state, pushes.batch(batch))
        if cut and every and int(state.count) % every == 0:
            state = state._replace(params=trimmed(state.params))
        return state, metrics

    if settings.rounds.stop and not mending:

        def until(number: int, state: rounds.State, metrics: dict[str, float]) -> bool:
            if cut and (not every or number % every):
                return False  # what is not cut yet says too much
            return stage.goal.reached(state.params)

    hooks = []
    if mending:
        how = how._replace(order="joint")  # a pass is too short for turns
        start = rounds.begin(how, mending.params, mending.kept, mending.share)
    else:
        start = rounds.begin(how, copied(stage.params), kept_shape(stage, how))
        hooks = kept_hooks(stage, how, stage.params is subject.params)
    state = train(
        one_round,
        start,
        pushes.stream(),
        steps=settings.rounds.mend_rounds if mending else how.number,
        directory=mending.directory if mending else stage.directory,
        settings=settings.loop,
        hooks=hooks,
        title=f"{'mend' if mending else settings.run} {', '.join(stage.targets)}",
        until=until,
    )
    return trimmed(state.params), state.kept


def kept_shape(stage: Stage, how: rounds.Rounds) -> discriminate.Kept:
    """What is known of the kept tasks, before it is computed: of its shapes."""
    method = stage.subject.settings.discriminate.method
    if method == "none" or (method == "ridge" and not stage.kept):
        return ()
    shapes = jax.eval_shape(lambda: _no_knowledge(stage, how, method))
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


def _no_knowledge(stage: Stage, how: rounds.Rounds, method: str):
    config, ridge = stage.subject.config, stage.subject.settings.discriminate.ridge
    if method == "ridge":
        return ridges.factorise(zero_moments(config, how.trainable), ridge)
    matrices = how.trainable.take(stage.subject.params)
    return discriminate.similar_of([matrices] * len(_near(stage)), how.rank)


def _near(stage: Stage) -> list[str]:
    """The similar tasks that Gram-Schmidt takes out."""
    near = [name for name in stage.kept if name in stage.similar]
    if not near:
        raise ValueError(
            f"config.discriminate.method='gram_schmidt' needs tasks similar to "
            f"{', '.join(stage.targets)}, and there are none: name them in "
            "config.tasks.similar, or use 'ridge'."
        )
    return near


def kept_hooks(stage: Stage, how: rounds.Rounds, as_it_came: bool) -> list[Hook]:
    """Finds out what is known of the kept tasks, before the first round and again.

    Args:
      as_it_came: whether rounds begin in the model as it came, whose statistics are
        cached.
    """
    settings = stage.subject.settings
    method = settings.discriminate.method
    if method == "none" or (method == "ridge" and not stage.kept):
        return []
    if method == "gram_schmidt":
        own = [Pushes(stage, [name], up=False, guarded=False) for name in _near(stage)]
        matrix = jax.jit(identify.task_matrix, static_argnums=(1, 3, 4, 5))

        def similar(number: int, state: rounds.State) -> rounds.State:
            found = []
            for pushes in own:
                batch = pushes.batch(next(pushes.stream()))
                arguments = (how.config, batch, how.loss, how.compute, how.trainable)
                found.append(matrix(state.params, *arguments)[0])
            return state._replace(kept=discriminate.similar_of(found, how.rank))

        return [Hook(settings.discriminate.refresh, similar)]
    return [Hook(settings.discriminate.refresh, ridge_hook(stage, as_it_came))]


def known_of_kept(stage: Stage, params: Any) -> discriminate.Kept:
    """What rounds that begin in some parameters know of the kept tasks."""
    how = rounds_of(stage.subject)
    state = rounds.begin(how, params)
    for hook in kept_hooks(stage, how, as_it_came=False):
        state = hook.run(0, state)
    return state.kept


def ridge_hook(stage: Stage, as_it_came: bool):
    """Factors of the kept tasks' second moments at the parameters of a state."""
    subject, ridge = stage.subject, stage.subject.settings.discriminate.ridge

    def refresh(number: int, state: rounds.State) -> rounds.State:
        if number or not as_it_came:
            moments = statistics.of_params(state.params, subject, stage.kept_text)
        else:
            moments = statistics.of_model(subject, stage.kept_text, stage.directory)
        kept = ridges.checked(moments, ridge, "config.discriminate.ridge")
        return state._replace(kept=kept)

    return refresh


def _one_shot(stage: Stage) -> Any:
    """W' = W - alpha T' with T from rounds of learning the task, as the paper does."""
    subject, settings = stage.subject, stage.subject.settings
    how = rounds_of(subject)
    task = _bootstrap(stage, stage.targets, how, "target")
    method = settings.discriminate.method
    kept: discriminate.Kept = ()
    if method == "gram_schmidt":
        rank = settings.discriminate.rank
        similar = [_bootstrap(stage, [name], how, name) for name in _near(stage)]
        kept = discriminate.similar_of(similar, rank)
        task = discriminate.discriminate(task, kept, rank)
    elif method == "ridge" and stage.kept:
        state = ridge_hook(stage, stage.params is subject.params)(
            0, rounds.begin(how, stage.params)
        )
        task = discriminate.discriminate(task, state.kept)
    if settings.rounds.rank:
        task = learn.product(learn.factors(task, settings.rounds.rank))
    apply = learn.learn if settings.learns else remove
    return apply(stage.params, task, 1.0, how.trainable)


def _bootstrap(
    stage: Stage, names: list[str], how: rounds.Rounds, title: str
) -> Matrices:
    """T: what the moving matrices become where tasks are learned in rounds."""
    subject, settings = stage.subject, stage.subject.settings
    start = stage.params
    if settings.identify.start == "random":
        start = llama.init_params(subject.config, settings.seed)
    base = how.trainable.take(start)
    pushes = Pushes(stage, names, up=True, guarded=False)
    state = train(
        lambda state, batch: rounds.take_round(how, state, pushes.batch(batch)),
        rounds.begin(how, copied(start)),
        pushes.stream(),
        steps=how.number,
        directory=str(epath.Path(stage.directory) / f"identify_{title}"),
        settings=settings.loop,
        title=f"identify {', '.join(names)}",
    )
    task = rounds.change_of(state.params, base, how.trainable)
    if not float(optax.tree.norm(task)):
        raise ValueError(
            f"the task matrix of {title} {', '.join(names)} is 0: the model knows it too "
            "well for config.identify.loss='margin' to teach it anything; use "
            "config.identify.loss=cross_entropy."
        )
    return task
