# SPDX-License-Identifier: Apache-2.0
"""Second moments of kept tasks' inputs: streamed, resumable, cached by what they are of."""

import hashlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import tqdm
from etils import epath

from jax_surgery.data.packing import Packer
from jax_surgery.data.reference_cache import fingerprint
from jax_surgery.data.stream import Batch, one_pass
from jax_surgery.parallel import distributed
from jax_surgery.parallel import mesh as meshes
from jax_surgery.runs.checkpoint import Checkpoints
from jax_surgery.runs.subspace.subject import Subject
from jax_surgery.surgery import moments as moment_sums
from jax_surgery.surgery.precondition import Moments

ROWS = 32  # of a forward pass, at least


class KeptText:
    """Kept tasks' text, each token weighed: a task's weigh its weight together."""

    def __init__(self, subject: Subject, kept: list[str], similar: set[str]):
        """Packs the text.

        Args:
          kept: names of tasks, at least one.
          similar: of them, those that weigh `discriminate.similar_weight`, not 1.
        """
        settings = subject.settings
        documents, weights = [], []
        for name in kept:
            weight = settings.discriminate.similar_weight if name in similar else 1.0
            own = subject.documents(name, settings.tasks.records)
            count = sum(len(d.tokens) for d in own)
            documents += own
            weights.append(np.full(count, weight / count, np.float32))
        self.packer = Packer(documents, settings.tasks.context, "tokens")
        self._rows = self.packer.pack()
        self._weights = np.concatenate(weights)

    def batches(self, first: int = 0) -> Iterator[Batch]:
        """Every row once, from batch `first` on, with the weights that
        `second_moments` reads."""
        rows = meshes.round_rows(ROWS)
        for batch, _ in one_pass(self._rows.take(slice(first * rows, None)), rows):
            index_BT = batch.pop("token_index_BT")
            batch[moment_sums.MOMENT_WEIGHTS] = self._weights[index_BT]
            yield meshes.place_rows(batch, rows)

    @property
    def num_batches(self) -> int:
        """How many `batches` there are."""
        return math.ceil(len(self._rows) / meshes.round_rows(ROWS))

    def key(self, subject: Subject) -> str:
        """Hash of the model, the text, its weights, and what is read of them."""
        digest = hashlib.sha256()
        compute = subject.settings.compute
        digest.update(fingerprint(subject.params, self.packer, compute).encode())
        digest.update(self._weights.tobytes())
        trainable = subject.settings.trainable(subject.config)
        digest.update(
            repr((trainable, self.num_batches, meshes.round_rows(ROWS))).encode()
        )
        return digest.hexdigest()


def of_params(params: Any, subject: Subject, text: KeptText) -> Moments:
    """Weighted sums of x x^T at any parameters, of all of the text."""
    return moment_sums.second_moments(
        params,
        subject.config,
        text.batches(),
        subject.settings.compute,
        subject.settings.trainable(subject.config),
    )


def of_model(subject: Subject, text: KeptText, directory: str) -> Moments:
    """`of_params` at the model as it came, from the cache where they are there.

    What is summed so far is saved every `statistics.save_every` batches, and a run that
    was stopped goes on from there.

    Args:
      directory: of the run, for `statistics/` where no cache is named.
    """
    settings = subject.settings.statistics
    folder = epath.Path(settings.cache or epath.Path(directory) / "statistics")
    trainable = subject.settings.trainable(subject.config)
    sums = moment_sums.zero_moments(subject.config, trainable)
    done = 0
    key = text.key(subject)
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
            print(f"statistics of kept tasks: {what} ({folder / key[:16]})")
        bar = tqdm.tqdm(
            total=text.num_batches,
            initial=done,
            desc="statistics of kept tasks",
            unit="batch",
            mininterval=0.5,
            disable=not distributed.is_lead(),
        )
        with bar:
            for number, batch in enumerate(text.batches(done), start=done + 1):
                sums = moment_sums.add(
                    subject.params,
                    subject.config,
                    batch,
                    subject.settings.compute,
                    trainable,
                    sums,
                )
                bar.update(1)
                if number == text.num_batches or number % settings.save_every == 0:
                    saved.save(number, sums, {"key": key})
    return sums
