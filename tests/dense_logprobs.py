# SPDX-License-Identifier: Apache-2.0
"""Random hidden states, and dense float64 softmax and gradients to compare with."""

import numpy as np
from hypothesis import strategies as st

ROWS, TOKENS, WIDTH, VOCAB = 2, 9, 6, 23
DIRECTIONS = ("model_to_reference", "reference_to_model")
chunks = st.sampled_from([1, 2, 7, 8, 17, 18, 19, 40])


def arrays(seed: int):
    """Hidden states and heads of a model and a reference, and targets."""
    rng = np.random.default_rng(seed)
    hidden_BTD, other_BTD = rng.normal(size=(2, ROWS, TOKENS, WIDTH))
    head_DV, other_DV = rng.normal(size=(2, WIDTH, VOCAB))
    targets_BT = rng.integers(0, VOCAB, (ROWS, TOKENS))
    return hidden_BTD, head_DV, other_BTD, other_DV, targets_BT


def softmax(logits):
    """(log p, p) over the last axis, float64."""
    shifted = logits - logits.max(-1, keepdims=True)
    logp = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return logp, np.exp(logp)


def capped(logits, cap):
    """(c tanh(z / c), its derivative by z); the logits and 1 without a cap."""
    if cap is None:
        return logits, 1.0
    tanh = np.tanh(logits / cap)
    return cap * tanh, 1 - tanh**2


def cotangents(dz_BTV, hidden_BTD, head_DV):
    """Gradients of hidden states and head from those of the logits."""
    return (
        dz_BTV @ head_DV.T,
        np.einsum("btd,btv->dv", hidden_BTD, dz_BTV),
    )


def assert_close(got, wanted):
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)
