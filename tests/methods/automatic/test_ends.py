# SPDX-License-Identifier: Apache-2.0
"""Tests of how far a model is from the ends of what it forgets and learns."""

import jax
import numpy as np
import pytest
from level_of_others import level
from plain_settings import plain_objective

from jax_surgery.data.packing import Packer
from jax_surgery.data.tokens import Document
from jax_surgery.methods.automatic.ends import Ends
from jax_surgery.methods.automatic.never_knew import TokenEnds
from jax_surgery.methods.loss import Loss
from jax_surgery.methods.never_knew import CHANCE, NeverKnew
from jax_surgery.models import decoder, output_head
from jax_surgery.models.config import ModelConfig
from jax_surgery.train import devices

CONFIG = ModelConfig(37, 16, 24, 2, 4, 2, 4, initializer_range=0.3)
LOSS = Loss(plain_objective(3.0, 2.0, 1.0), NeverKnew())


def documents(seed):
    rng = np.random.default_rng(seed)
    return [
        Document(rng.integers(0, 37, n).astype(np.int32), np.arange(n) > 2, str(i))
        for i, n in enumerate(rng.integers(4, 10, 5))
    ]


def ends_of(packer):
    """Each token's end, that no other token has."""
    drawn = np.random.default_rng(0).integers(0, 37, (packer.num_tokens, 4))
    likelier = np.random.default_rng(1).normal(size=drawn.shape).astype(np.float32)
    odds = np.full(packer.num_tokens, -6.0)
    return TokenEnds(odds, drawn.astype(np.int32), likelier)


@pytest.mark.parametrize("roles", [("unlearn", "update"), ("unlearn",)])
def test_both_terms_are_means_over_learned_tokens(roles):
    params = decoder.init_params(CONFIG, 0)
    packers = {r: Packer(documents(i), 16, "tokens") for i, r in enumerate(roles)}
    ends = ends_of(packers["unlearn"])
    measures = Ends(LOSS, packers, ends, CONFIG, decoder.DEFAULT_COMPUTE, seed=0)
    forget, update = measures.measure(params)
    distances, costs = [], []
    for role in roles:
        for start, document in zip(packers[role].starts, documents(roles.index(role))):
            hidden_TD = decoder.forward(params, CONFIG, document.tokens[None])[0]
            logp_TV = jax.nn.log_softmax(hidden_TD @ output_head.kernel(params))
            for place in range(3, len(document.tokens)):
                token, logp_V = document.tokens[place], np.asarray(logp_TV[place - 1])
                if role == "update":
                    costs.append(-logp_V[token])
                    continue
                first = logp_V[token] - np.delete(logp_V, token).max() + np.log(2)
                others = logp_V[ends.drawn[start + place]]
                at, spread = level(others, ends.likelier[start + place])
                end = at + CHANCE * spread
                far = max(logp_V[token] - end, first)
                far = far if far > 0 else -LOSS.method.below * far
                near = min(far, LOSS.method.softness)
                distances.append(near * (far - near / 2) / LOSS.method.softness)
    assert forget == pytest.approx(np.mean(distances), rel=1e-4)
    assert update == pytest.approx(np.mean(costs) if costs else 0.0, rel=1e-4)


def test_other_rows_are_measured_than_those_that_a_run_begins_with():
    """Of many texts the first rows alone may be forgotten, and tell nothing of others."""
    many = [one for seed in range(40) for one in documents(seed)]
    packers = {"unlearn": Packer(many, 16, "tokens")}
    ends = ends_of(packers["unlearn"])
    measures = Ends(LOSS, packers, ends, CONFIG, decoder.DEFAULT_COMPUTE, seed=0)
    rows = devices.role_rows({"unlearn": 4}, 1)
    first = next(devices.batch_stream(packers, {"unlearn": 4}, rows, 0))
    own = {bytes(row) for row in np.asarray(measures._batch.tokens_BT)}
    assert len(own) == 4
    assert not own & {bytes(row) for row in np.asarray(first.tokens_BT)}
