# SPDX-License-Identifier: Apache-2.0
"""Every method's loss in float64 NumPy, written from its paper's formula."""

import dataclasses
from typing import Any

import numpy as np
from level_of_others import level

from jax_surgery.methods.base import HiddenMethod


@dataclasses.dataclass
class Seen:
    """What a model says of a batch, float64.

    Attributes:
      logp: log p of every token after each position, [B, T, V].
      states: output of a layer, [B, T, D].
    """

    logp: np.ndarray
    states: np.ndarray

    @classmethod
    def of(cls, hidden: Any, head: Any, states: Any) -> "Seen":
        z = np.asarray(hidden, np.float64) @ np.asarray(head, np.float64)
        z -= z.max(-1, keepdims=True)
        logp = z - np.log(np.exp(z).sum(-1, keepdims=True))
        return cls(logp, np.asarray(states, np.float64))


def documents(batch, rows):
    """[(row, positions, targets)] of each document's learned tokens in some rows."""
    found = []
    for row in rows:
        segments = np.asarray(batch.segment_ids_BT[row])
        for segment in range(1, segments.max() + 1):
            at = np.flatnonzero(segments == segment)[1:]  # a first token has no place
            at = at[np.asarray(batch.weights_BT)[row, at] > 0]
            found.append((row, at - 1, np.asarray(batch.tokens_BT)[row, at]))
    return found


def mean_over_tokens(batch, rows, value):
    """Mean over tokens, then over documents (`average="sequences"`)."""
    return np.mean([value(*found).mean() for found in documents(batch, rows)])


def sums(seen, batch, rows):
    """Sum of log p of each document, and its learned tokens."""
    found = documents(batch, rows)
    return (
        np.array([seen.logp[row, at, y].sum() for row, at, y in found]),
        np.array([len(y) for _, _, y in found]),
    )


def surgery(method, now, at, ref, batch, rows):
    return mean_over_tokens(batch, rows, lambda r, t, y: now.logp[r, t, y])


def wga(method, now, at, ref, batch, rows):
    def value(r, t, y):
        return np.exp(at.logp[r, t, y]) ** method.beta * now.logp[r, t, y]

    return mean_over_tokens(batch, rows, value)


def with_targets(batch):
    """The batch with a target of each token, that does not depend on how it is packed."""
    targets_BT = -(4 + batch.tokens_BT * 7 % 5).astype(np.float32)
    return batch.replace(target_log_odds_BT=targets_BT)


def with_others(batch):
    """The batch with three other tokens for each, likewise."""
    tokens_BT1 = np.asarray(batch.tokens_BT)[..., None]
    drawn_BTK = (tokens_BT1 + [3, 7, 12, 20]) % 37
    likelier_BTK = np.cos(tokens_BT1 * [1.0, 2.0, 3.0, 5.0])
    return with_targets(batch).replace(
        drawn_BTK=drawn_BTK.astype(np.int32),
        likelier_BTK=likelier_BTK.astype(np.float32),
    )


def never_knew(method, now, at, ref, batch, rows):
    drawn, likelier = np.asarray(batch.drawn_BTK), np.asarray(batch.likelier_BTK)

    def value(r, t, y):
        own = now.logp[r, t, y]
        likely = now.logp[r, t].copy()
        likely[np.arange(len(y)), y] = -np.inf
        of_drawn = lambda seen: np.take_along_axis(seen.logp[r, t], drawn[r, t + 1], -1)
        # The line's slope and the deviation, where they are computed, have no gradient.
        here, spread = level(of_drawn(at), likelier[r, t + 1])
        moved = of_drawn(now).mean(-1) - of_drawn(at).mean(-1)
        end = here + moved + 0.3317488 * spread
        far = np.maximum(own - end, own - likely.max(-1) + np.log(2))
        far = np.where(far > 0, far, -method.below * far)
        near = np.minimum(far, method.softness)
        return near * (far - near / 2) / method.softness

    return mean_over_tokens(batch, rows, value)


def ihl(method, now, at, ref, batch, rows):
    def value(r, t, y):
        p = np.exp(now.logp[r, t])
        own = p[np.arange(len(y)), y]
        p[np.arange(len(y)), y] = -1
        return 1 + own - p.max(-1)

    return mean_over_tokens(batch, rows, value)


def npo(method, now, at, ref, batch, rows):
    ratio = sums(now, batch, rows)[0] - sums(ref, batch, rows)[0]
    return np.mean(2 / method.beta * np.log1p(np.exp(ratio) ** method.beta))


def simnpo(method, now, at, ref, batch, rows):
    logp, count = sums(now, batch, rows)
    inside = -method.beta * logp / count - method.beta * method.delta
    return np.mean(method.weight * 2 / method.beta * np.log1p(np.exp(-inside)))


def dpo(method, now, at, ref, batch, rows):
    ratio = sums(now, batch, rows)[0] - sums(ref, batch, rows)[0]
    lost, won = ratio[0::2], ratio[1::2]
    sigmoid = 1 / (1 + np.exp(-method.beta * (won - lost)))
    return np.mean(-2 / method.beta * np.log(sigmoid))


def ga(method, now, at, ref, batch, rows):
    return mean_over_tokens(batch, rows, lambda r, t, y: now.logp[r, t, y])


def task_vector(method, now, at, ref, batch, rows):
    return -ga(method, now, at, ref, batch, rows)


def satimp(method, now, at, ref, batch, rows):
    def value(r, t, y):
        p = np.exp(at.logp[r, t, y])
        weight = p**method.beta1 * (1 - p) ** method.beta2
        return method.weight * weight * now.logp[r, t, y]

    return mean_over_tokens(batch, rows, value)


def cross_entropy(taught, logp):
    """Of targets [n, V], whose logarithms are given up to a constant, per token."""
    p = np.exp(taught - taught.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return -(p * logp).sum(-1)


def ceu(method, now, at, ref, batch, rows):
    found, weights = [], []
    for r, t, y in documents(batch, rows):
        taught = at.logp[r, t].copy()
        taught[np.arange(len(y)), y] = -np.inf
        values = cross_entropy(taught, now.logp[r, t])[method.skip :]
        found.append(values.sum() / len(y))
        weights.append(len(values) / len(y))
    return np.sum(found) / np.sum(weights)


def undial(method, now, at, ref, batch, rows):
    def value(r, t, y):
        taught = ref.logp[r, t].copy()
        taught[np.arange(len(y)), y] -= method.beta
        return cross_entropy(taught, now.logp[r, t])

    if not method.everywhere:
        return mean_over_tokens(batch, rows, value)
    # As PyTorch has it: label -100 counts from the end of the vocabulary.
    vocab, found = now.logp.shape[-1], []
    for row in rows:
        segments, weights = (
            np.asarray(x[row]) for x in (batch.segment_ids_BT, batch.weights_BT)
        )
        same = (segments[1:] == segments[:-1]) & (segments[1:] > 0)
        t = np.flatnonzero(same)
        labels = np.asarray(batch.tokens_BT[row])[t + 1]
        found += [value(row, t, np.where(weights[t + 1] > 0, labels, -100 % vocab))]
    return np.concatenate(found).mean()


def pdu(method, now, at, ref, batch, rows):
    late = int(method.late)

    def value(r, t, y):
        z = now.logp[r, t + late]  # up to a constant, which the difference drops
        return (z.max(-1) - z.mean(-1)) ** 2

    return mean_over_tokens(batch, rows, value)


def rmu(method, now, at, ref, batch, rows):
    import jax

    width = now.states.shape[-1]
    u = np.asarray(jax.random.uniform(jax.random.key(method.seed), (width,)))
    wanted = method.steering * u / np.linalg.norm(u)

    def value(r, t, y):  # at the learned tokens themselves, which t precedes
        return ((now.states[r, t + 1] - wanted) ** 2).mean(-1)

    if method.mixed:  # [b] errors over [b, 1] lengths are [b, b] quotients
        found = documents(batch, rows)
        errors = np.array([value(*document).sum() for document in found])
        lengths = np.array([[len(y)] for _, _, y in found])
        return (errors / lengths).mean()
    return mean_over_tokens(batch, rows, value)


TWINS = {
    "never_knew": never_knew,
    "surgery": surgery,
    "ga": ga,
    "grad_diff": ga,
    "kl_min": ga,
    "task_vector": task_vector,
    "wga": wga,
    "satimp": satimp,
    "ceu": ceu,
    "undial": undial,
    "pdu": pdu,
    "ihl": ihl,
    "loku": ihl,
    "npo": npo,
    "npo_sam": npo,
    "simnpo": simnpo,
    "dpo": dpo,
    "idkpo": dpo,
    "altpo": dpo,
    "rmu": rmu,
}


def retain(method, now, ref, batch, rows):
    """KL(p_theta || p_ref), or what the method has in its place, by document."""
    if method.retains == "none":
        return 0.0
    if method.retains == "nll":
        return mean_over_tokens(batch, rows, lambda r, t, y: -now.logp[r, t, y])
    found = []
    for row in rows:
        segments = np.asarray(batch.segment_ids_BT[row])
        for segment in range(1, segments.max() + 1):
            at = np.flatnonzero(segments == segment)
            logp, logq = now.logp[row, at], ref.logp[row, at]
            value = (np.exp(logp) * (logp - logq)).sum(-1)
            if isinstance(method, HiddenMethod):
                value = ((now.states[row, at] - ref.states[row, at]) ** 2).mean(-1)
            found.append(value.mean())
    return np.mean(found)


def loss(name, method, objective, now, at, ref, batch, role_rows):
    """All three terms of a batch.

    Args:
      now, at, ref: `Seen` of the model, of where it is differentiated (for weights
        without a gradient), and of the frozen model.
      role_rows: which rows each role has.
    """
    update = mean_over_tokens(
        batch, role_rows["update"], lambda r, t, y: -now.logp[r, t, y]
    )
    return (
        objective.alpha * TWINS[name](method, now, at, ref, batch, role_rows["unlearn"])
        + objective.beta * update
        + objective.gamma * retain(method, now, ref, batch, role_rows["retain"])
    )
