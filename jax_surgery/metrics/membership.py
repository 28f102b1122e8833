# SPDX-License-Identifier: Apache-2.0
"""Membership scores: was a text among those that a model was trained on?

Pure functions of what a model says of each token of a text. Of all of them a low value
says that the text was. The texts of an adversary are divided by a threshold on one of them;
`metrics.separation` says how well that can be done.
"""

import zlib

import numpy as np

# Of a text's tokens the least likely ones, as MUSE and open-unlearning take.
SHARE = 0.4
LEAST_VARIANCE = 1e-6  # of log p over the vocabulary, nats squared


def loss(logp: np.ndarray) -> float:
    """Mean negative log-likelihood of a text, nats (Yeom et al. 2018, arXiv 1709.01604).

    Args:
      logp: log p of each of its tokens, nats, [tokens].
    """
    return -float(np.mean(logp, dtype=np.float64))


def over_zlib(of_loss: float, text: str) -> float:
    """A loss over the bytes of the text that zlib has compressed, nats per byte (Carlini
    et al. 2021, arXiv 2012.07805, Section 5.2)."""
    return of_loss / len(zlib.compress(text.encode()))


def over_reference(of_loss: np.ndarray, of_reference: np.ndarray) -> np.ndarray:
    """Losses of texts less those of a model that was not trained on them, nats (Carlini et
    al. 2021, arXiv 2012.07805, Section 5.2)."""
    return of_loss - of_reference


def min_k(logp: np.ndarray, share: float = SHARE) -> float:
    """-mean log p of a share of the tokens, the least likely ones (Shi et al. 2023, arXiv
    2310.16789), nats."""
    return -_lowest(np.asarray(logp, np.float64), share)


def min_k_plus_plus(
    logp: np.ndarray, mean: np.ndarray, variance: np.ndarray, share: float = SHARE
) -> float:
    """`min_k` of log p in deviations from its mean over the vocabulary (Zhang et al. 2024,
    arXiv 2404.02936).

    Args:
      logp: of each token, nats, [tokens].
      mean, variance: of log p(v) over tokens v that are drawn by p, at each token.
    """
    deviation = np.sqrt(np.maximum(np.asarray(variance, np.float64), LEAST_VARIANCE))
    apart = np.asarray(logp, np.float64) - np.asarray(mean, np.float64)
    return -_lowest(apart / deviation, share)


def privacy_leakage(auc: float, of_reference: float) -> float:
    """Percent that members are told from others better than by a model that never knew
    them: below 0 more (too little is unlearned), above 0 less or the wrong way round (too
    much is); MUSE (Shi et al. 2024, arXiv 2407.06460), Section 3.1.3.

    Args:
      auc: of `min_k`, 1 where all members are lower than all others.
      of_reference: the same of the model that never knew.

    Raises:
      ValueError: that model tells all of them apart, so that nothing can be compared.
    """
    if of_reference >= 1:
        raise ValueError(
            "the privacy leakage is not defined: the reference model tells all members "
            "from all other texts, so the two sets of text differ in more than in "
            "membership. Give texts of the same kind as both."
        )
    return 100 * ((1 - auc) - (1 - of_reference)) / (1 - of_reference)


def _lowest(values: np.ndarray, share: float) -> float:
    """Mean of the lowest share of values, of one at least."""
    count = max(1, int(share * len(values)))
    return float(np.partition(values, count - 1)[:count].mean())
