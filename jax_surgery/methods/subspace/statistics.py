# SPDX-License-Identifier: Apache-2.0
"""Second moments of retained groups' inputs: streamed, resumable, cached by what they are of."""

from typing import Any

import tqdm
from etils import epath

from jax_surgery.methods.subspace.retained import RetainedText
from jax_surgery.methods.subspace.work import Work
from jax_surgery.optim.precondition import moments as moment_sums
from jax_surgery.optim.precondition.moments import Moments
from jax_surgery.parallel import distributed, preemption
from jax_surgery.train.checkpoint import Checkpoints
from jax_surgery.train.loop import Interrupted

SAVE_EVERY = 200  # batches between saves of what is summed so far


def of_params(params: Any, work: Work, text: RetainedText) -> Moments:
    """Weighted sums of x x^T at any parameters, of all of the text."""
    return moment_sums.second_moments(
        params,
        work.model.config,
        text.batches(),
        work.model.compute,
        work.trainable,
    )


def of_model(work: Work, text: RetainedText, directory: str) -> Moments:
    """`of_params` of the initial model, from the cache where they are there.

    What is summed so far is saved every `statistics.save_every` batches, and a run that
    was stopped goes on from there.

    Args:
      directory: of the run, for `statistics/` where no cache is named.
    """
    folder = epath.Path(
        work.how.statistics.cache or epath.Path(directory) / "statistics"
    )
    trainable = work.trainable
    sums = moment_sums.zero_moments(work.model.config, trainable)
    done = 0
    key = text.key
    with Checkpoints(folder / key[:16], 1) as saved:
        if saved.latest is not None:
            sums, state = saved.restore(sums)
            done = saved.latest
            if state["key"] != key:
                raise ValueError(
                    f"{folder / key[:16]} holds statistics of something else "
                    f"({state['key']}); remove that folder, or name another "
                    "config.statistics.cache."
                )
            what = (
                "from the cache" if done == text.num_batches else f"going on at {done}"
            )
            print(f"statistics of retained groups: {what} ({folder / key[:16]})")
        bar = tqdm.tqdm(
            total=text.num_batches,
            initial=done,
            desc="statistics of retained groups",
            unit="batch",
            mininterval=0.5,
            disable=not distributed.is_lead(),
        )
        with preemption.listening(), bar:
            for number, batch in enumerate(text.batches(done), start=done + 1):
                sums = moment_sums.add(
                    work.model.params,
                    work.model.config,
                    batch,
                    work.model.compute,
                    trainable,
                    sums,
                )
                bar.update(1)
                stop = preemption.reached()
                due = number % SAVE_EVERY == 0
                if stop or due or number == text.num_batches:
                    saved.save(number, sums, {"key": key})
                if stop and number < text.num_batches:
                    raise Interrupted(
                        f"stopped after {number} of {text.num_batches} batches of the "
                        "statistics, whose sums are saved."
                    )
    return sums
