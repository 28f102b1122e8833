# SPDX-License-Identifier: Apache-2.0
"""What discrimination knows of retained groups: the ridge's factors, or subspaces.

The ridge is of second moments of the groups' inputs, which are streamed, resumable and
cached by what they are of.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from jax_surgery.methods.subspace import identify, rounds
from jax_surgery.methods.subspace.method import REFRESH
from jax_surgery.methods.subspace.stage import Stage
from jax_surgery.methods.subspace.text import RetainedText, WeightedBatches
from jax_surgery.methods.subspace.work import Work
from jax_surgery.optim.precondition import discriminate, moments
from jax_surgery.optim.precondition import ridge as ridges
from jax_surgery.parallel import host_memory, preemption, progress
from jax_surgery.train.checkpoint import Checkpoints
from jax_surgery.train.loop import Callback, Interrupted

SAVE_EVERY = 200  # batches between saves of what is summed so far


def kind_of(stage: Stage) -> str:
    """How a stage discriminates: "none" too where the ridge has nothing to retain."""
    kind = stage.work.how.subspace.discriminate
    return "none" if kind == "ridge" and not stage.retained else kind


def no_knowledge(stage: Stage) -> discriminate.Knowledge:
    """What is known of the retained groups, before it is computed: of its shapes."""
    work, kind = stage.work, kind_of(stage)

    def zeros():
        if kind == "ridge":
            sums = moments.zero_moments(work.model.config, work.trainable)
            return ridges.factorise(sums, work.how.subspace.ridge)
        matrices = [work.trainable.take(work.model.params)] * len(similar_groups(stage))
        return discriminate.similar_of(matrices, rounds.GRAM_SCHMIDT_RANK)

    if kind == "none":
        return ()
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(zeros))


def similar_groups(stage: Stage) -> list[str]:
    """The similar groups whose subspaces Gram-Schmidt takes out.

    Raises:
      ValueError: there are none.
    """
    near = [name for name in stage.retained if name in stage.similar]
    if not near:
        raise ValueError(
            f"config.method=subspace:discriminate=gram_schmidt needs groups similar to "
            f"{', '.join(stage.targets)}, and there are none: name them in "
            "config.tasks.similar, or use discriminate=ridge."
        )
    return near


def callbacks(stage: Stage, *, initial: bool) -> list[Callback]:
    """Compute what is known of retained groups, at first and on refreshes.

    Args:
      initial: whether rounds begin in the initial model, whose statistics are
        cached.
    """
    if kind_of(stage) == "none":
        return []
    find = finder(stage)

    def refresh(number: int, state: rounds.State) -> rounds.State:
        found = find(state.params, cached=initial and not number)
        return state._replace(knowledge=found)

    every = stage.work.how.subspace.refresh
    if every < 0:
        every = 0 if stage.work.written else REFRESH
    return [Callback(every, refresh)]


def finder(stage: Stage) -> Callable[..., discriminate.Knowledge]:
    """The function of parameters that gives what is known of retained groups in them.

    Its `cached` says that they are the model's before the run, whose statistics are
    cached.
    """
    kind = kind_of(stage)
    if kind == "none":
        return lambda params: ()
    if kind == "ridge":
        return functools.partial(ridge_of, stage)
    how, near = rounds.of(stage.work), similar_groups(stage)
    own = [WeightedBatches(stage.work, [name], learn=False) for name in near]

    def find(params: Any, *, cached: bool = False) -> discriminate.Similar:
        del cached  # subspaces of similar groups are not
        found = []
        for batches in own:
            batch = batches.batch(next(batches.stream()))
            arguments = (how.config, batch, how.loss, how.compute, how.trainable)
            found.append(identify.jitted_task_matrix(params, *arguments)[0])
        return discriminate.similar_of(found, rounds.GRAM_SCHMIDT_RANK)

    return find


def ridge_of(stage: Stage, params: Any, *, cached: bool = False) -> ridges.Factors:
    """Factors of the retained groups' second moments in some parameters.

    Args:
      cached: whether these are the model's before the run, whose moments are cached.
    """
    work, text = stage.work, stage.retained_text
    if cached:
        found = initial_moments(work, text, stage.directory)
    else:
        model = work.model
        found = moments.second_moments(
            params, model.config, text.batches(), model.compute, work.trainable
        )
    ridge = work.how.subspace.ridge
    factors = ridges.checked(found, ridge, "config.method=subspace:ridge")
    del found
    host_memory.release_freed_memory()
    return factors


def initial_moments(work: Work, text: RetainedText, directory: str) -> moments.Moments:
    """Weighted sums of x x^T in the initial model, from the cache where they are there.

    What is summed so far is saved every `SAVE_EVERY` batches, and a run that was
    stopped goes on from there.

    Args:
      directory: of the run, for `statistics/` where no cache is named.
    """
    key, model = text.key, work.model
    folder = epath.Path(
        work.how.statistics.cache or epath.Path(directory) / "statistics"
    )
    folder = folder / key[:16]
    sums, done = moments.zero_moments(model.config, work.trainable), 0
    shared = bool(work.how.statistics.cache)
    with Checkpoints(folder, 1, shared=shared) as saved:
        if restored := saved.restore(sums):
            done, sums, state = restored
            if state["key"] != key:
                raise ValueError(
                    f"{folder} holds statistics of something else ({state['key']}); "
                    "remove that folder, or name another config.statistics.cache."
                )
            whole = done == text.num_batches
            what = "from the cache" if whole else f"going on at {done}"
            print(f"statistics of retained groups: {what} ({folder})")
        bar = progress.Bar(
            title="statistics of retained groups",
            unit="batch",
            total=text.num_batches,
            initial=done,
        )
        listening = preemption.listening("this batch, whose sums are saved")
        with listening, preemption.interruptible(False), bar:
            for number, batch in enumerate(text.batches(done), start=done + 1):
                sums = moments.add(
                    *(model.params, model.config, batch),
                    *(model.compute, work.trainable, sums),
                )
                bar.update(1)
                stop = preemption.reached()
                due = number % SAVE_EVERY == 0
                last = stop or number == text.num_batches
                if due or last:
                    saved.save(number, sums, {"key": key}, last=last)
                if stop and number < text.num_batches:
                    raise Interrupted(
                        f"stopped after {number} of {text.num_batches} batches of the "
                        "statistics, whose sums are saved."
                    )
    return sums
