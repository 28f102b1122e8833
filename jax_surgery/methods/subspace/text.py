# SPDX-License-Identifier: Apache-2.0
"""The text of a stage: its targets', which moves, and that of the retained groups."""

import functools
import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jax_surgery.data.batch import Batch
from jax_surgery.data.packing import Packer
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.data.stream import BatchStream, one_pass
from jax_surgery.data.tokens import Document
from jax_surgery.methods.subspace.identify import chance_odds
from jax_surgery.methods.subspace.work import Work
from jax_surgery.metrics.tokens import Kind, score_tokens
from jax_surgery.parallel import mesh as meshes
from jax_surgery.train import devices
from jax_surgery.train.reference_cache import fingerprint

# Nats of log-odds: where unlearning ends (those of chance, where the group says it),
# where learning ends, and how far an answer in another's place is raised.
UNLEARNED, LEARNED, OVERWRITTEN = -3.0, 6.0, 2.0
GUARDED = 4.0  # nats of log-odds; a retained token above is not raised
SIMILAR_WEIGHT = 5.0  # of similar groups' text in the moments; 1 of others'
CLEARLY_WRONG = -1.0  # nats of log-odds of a token that was the likeliest
ROWS = 32  # of a forward pass, at least
# Of text that the model wrote so many tokens at most are read for second moments.
MOMENT_TOKENS = 12_000


def repeated(groups: Sequence[list[Any]]) -> list[Any]:
    """Members of groups, each group about as often as the largest one has them."""
    most = max((len(group) for group in groups), default=0)
    return [d for group in groups if group for d in (group * -(-most // len(group)))]


def target_text(
    work: Work, names: list[str], *, learn: bool, half: int | None
) -> tuple[Packer, np.ndarray, np.ndarray]:
    """Targets' text, to be learned or to be unlearned.

    With the method's `overwrite`, another text's answer is learned in the place of what
    is unlearned.

    Args:
      names: of groups.
      half: 0 or 1, of each group's text; None is all.

    Returns:
      (the text, each group's about as often; and of each token of it: the weight, 1 to
      be unlearned and -1 to be learned; the nats of log-odds at which it becomes
      inactive).
    """
    groups: list[list[tuple[Document, float, Any]]] = []
    for name in names:
        text = work.texts[name]
        documents, ends = text.documents, text.ends
        if half is not None:
            documents, ends = documents[half::2], ends[half::2]
        if learn:
            groups.append([(d, -1.0, LEARNED) for d in documents])
            continue
        chance = chance_odds(text.chance) if text.chance else UNLEARNED
        each = ends or [chance] * len(documents)
        group = [(d, 1.0, end) for d, end in zip(documents, each, strict=True)]
        if share := work.how.subspace.overwrite:
            group += [(d, -share, OVERWRITTEN) for d in overwritten(work, name)]
        groups.append(group)
    documents, weights, log_odds = zip(*repeated(groups), strict=True)
    packer = work.packer(list(documents))

    def of_tokens(values: Sequence[Any]) -> np.ndarray:
        """Values of documents, or of each of their tokens, as the rows have them."""
        sizes = [len(document.tokens) for document in documents]
        spread = map(np.broadcast_to, values, sizes)
        return np.concatenate([*spread]).astype(np.float32)[packer.places]

    return packer, of_tokens(weights), of_tokens(log_odds)


def overwritten(work: Work, name: str) -> list[Document]:
    """A group's text, each with the answer of another one, drawn with the seed.

    The shorter of two answers says how many tokens are exchanged.

    Raises:
      ValueError: all of them have the same answer.
    """
    documents = work.texts[name].documents
    order = np.random.default_rng((work.how.seed, 1)).permutation(len(documents))
    found = []
    answers = [tuple(d.tokens[d.learned].tolist()) for d in documents]
    for place, here in enumerate(order):
        # The next one of the cycle that says something else.
        later = (order[(place + k) % len(order)] for k in range(1, len(order)))
        there = next((i for i in later if answers[i] != answers[here]), None)
        if there is None:
            raise ValueError(
                f"config.method=subspace:overwrite={work.how.subspace.overwrite:g}: all "
                f"{len(documents)} texts of {name!r} have one answer, so there is no "
                "other to put in its place; use overwrite=0."
            )
        document, other = documents[here], documents[there]
        own, new = np.flatnonzero(document.learned), np.flatnonzero(other.learned)
        count = min(len(own), len(new))
        tokens = document.tokens.copy()
        tokens[own[:count]] = other.tokens[new[:count]]
        found.append(Document(tokens, document.learned, document.origin))
    return found


class RetainedText:
    """The retained groups' text, up to `RECORDS` of each: what the ridge reads, what is
    guarded, and which answers are right.

    Attributes:
      packer: the texts.
    """

    def __init__(
        self, work: Work, retained: list[str], similar: set[str], found: Any = None
    ):
        """Packs the text.

        Args:
          retained: names of groups, at least one.
          similar: of them, those that weigh `SIMILAR_WEIGHT`, not 1.
          found: further parameters; what is right with them is retained too.
        """
        self._work = work
        self._models = [work.model.params]
        if found is not None and found is not work.model.params:
            self._models.append(found)
        documents: list[Document] = []
        weights, self._near, self._far = [], [], []
        self._checked: list[int] = []
        for name in retained:
            near = name in similar
            checked = near or name not in work.written
            own = work.documents(name)
            places = list(range(len(documents), len(documents) + len(own)))
            documents += own
            self._checked += places if checked else []
            if near:
                self._near.append(places)
            else:
                self._far += places
            weight = SIMILAR_WEIGHT if near else 1.0
            count = sum(len(d.tokens) for d in own)
            weights.append(np.full(count, weight / count, np.float32))
        self.packer = work.packer(documents)
        self._rows = self.packer.pack()
        # A group's tokens weigh its weight together.
        self._weights = np.concatenate(weights)[self.packer.places]
        self._read = self._rows
        if work.written and self.packer.num_tokens > MOMENT_TOKENS:
            every = -(-self.packer.num_tokens // MOMENT_TOKENS)
            self._read = self._rows.select(slice(None, None, every))

    def batches(self, first: int = 0) -> Iterator[Batch]:
        """The rows once, from batch `first` on, with the weights that
        `second_moments` reads."""
        rows = meshes.round_rows(ROWS)
        for batch in one_pass(self._read.select(slice(first * rows, None)), rows):
            index_BT = np.asarray(batch.token_index_BT)
            weights_BT = np.where(index_BT < 0, 0, self._weights[index_BT])
            yield batch.replace(moment_weights_BT=weights_BT).place(rows)

    @property
    def num_batches(self) -> int:
        """How many `batches` there are."""
        return math.ceil(len(self._read) / meshes.round_rows(ROWS))

    @functools.cached_property
    def key(self) -> str:
        """Hash of the model, the text, its weights, and what is read of them."""
        work = self._work
        of = fingerprint(work.model_hash, self.packer, work.model.compute)
        digest = hashlib.sha256(of.encode())
        digest.update(self._weights.tobytes())
        read = (work.trainable, self.num_batches, meshes.round_rows(ROWS))
        digest.update(repr(read).encode())
        return digest.hexdigest()

    def _score(self, params: Any, *kinds: Kind) -> dict[Kind, np.ndarray]:
        model = self._work.model.with_params(params)
        return score_tokens(model, self.packer, *kinds, rows=self._rows)

    @functools.cached_property
    def _before(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each token, the highest log-odds of any model, and whether one was right."""
        scores = [self._score(params, "margin", "top") for params in self._models]
        margins = np.max([s["margin"] for s in scores], 0)
        return margins, np.max([s["top"] for s in scores], 0) > 0

    def lost(self, params: Any) -> np.ndarray:
        """Places of texts with an answer's token that was right and is wrong now.

        Of groups that the model wrote similar ones count alone, and there tokens that are
        clearly wrong: an answer may be said in other words, and begin in another way.
        """
        work = self._work
        if not work.written:
            wrong = self._before[1] & (self._score(params, "top")["top"] == 0)
            return np.flatnonzero(self.packer.sums(wrong))
        wrong = self._before[1] & (
            self._score(params, "margin")["margin"] < CLEARLY_WRONG
        )
        lost = np.flatnonzero(self.packer.sums(wrong))
        return lost[np.isin(lost, self._checked)]

    def guarded(self, lost: Sequence[int] | np.ndarray) -> tuple[Packer, np.ndarray]:
        """Text to be guarded, and the target log-odds of each token, nats.

        There are similar groups' texts as often as all others together, and lost ones as
        often as both. No token is guarded above where it was: guarding teaches nothing.

        Args:
          lost: places of texts.
        """
        near = repeated(self._near)
        places = repeated([list(lost), repeated([near, self._far])])
        documents = [self.packer.documents[i] for i in places]
        spans = np.split(self._before[0], self.packer.starts[1:])
        reached = np.concatenate([spans[i] for i in places])
        log_odds = np.minimum(GUARDED, reached)
        return self._work.packer(documents), log_odds


class WeightedBatches:
    """A stage's batches: the weight of each token, and the log-odds it is to reach."""

    def __init__(
        self,
        work: Work,
        targets: list[str],
        *,
        learn: bool,
        retained: RetainedText | None = None,
        lost: Sequence[int] | np.ndarray = (),
        half: int | None = None,
        seed: int = 0,
    ):
        """Packs targets' and retained groups' text.

        Args:
          targets: groups whose text has weights.
          learn: whether it is to be learned; else it is to be unlearned.
          retained: text that is raised where it falls, by the method's `guard` above 0.
          lost: places in it of what is guarded as much as all else.
          half: which half of the targets' text, 0 or 1; None takes all.
          seed: of the order, beside the run's seed.
        """
        how = work.how
        self._seed = how.seed + seed
        self._role = "update" if learn else "unlearn"
        packer, self._weights, self._log_odds = target_text(
            work, targets, learn=learn, half=half
        )
        self.packers, self.wanted = {self._role: packer}, {self._role: how.tasks.rows}
        self._guard = how.subspace.guard if retained else 0.0
        if retained:
            guarded, self._guard_log_odds = retained.guarded(lost)
            self.packers["retain"] = guarded
            self.wanted["retain"] = how.tasks.rows_retained
            self._guard *= packer.learned.mean() / guarded.learned.mean()
            self._guard *= how.tasks.rows / how.tasks.rows_retained
        self.rows: RoleRows = devices.role_rows(self.wanted)

    def deactivate(self) -> None:
        """Sets the weight of the targets' tokens to 0 from now on."""
        self._weights = np.zeros_like(self._weights)

    def stream(self) -> BatchStream:
        """Endless batches of both."""
        return devices.batch_stream(self.packers, self.wanted, self.rows, self._seed)

    def batch(self, batch: Batch) -> Batch:
        """A batch of the stream on the devices, with what the subspace method reads."""
        index_BT = batch.token_index_BT
        target_B = self.rows.holds(self._role, len(index_BT))
        weights_BT = np.full(index_BT.shape, -self._guard, np.float32)
        log_odds_BT = np.zeros(index_BT.shape, np.float32)
        weights_BT[target_B] = self._weights[index_BT[target_B]]
        log_odds_BT[target_B] = self._log_odds[index_BT[target_B]]
        if self._guard:
            log_odds_BT[~target_B] = self._guard_log_odds[index_BT[~target_B]]
        weighted = batch.text.replace(
            token_weights_BT=weights_BT * batch.weights_BT,
            target_log_odds_BT=log_odds_BT,
        )
        return weighted.place(self.rows.total)
