# SPDX-License-Identifier: Apache-2.0
"""Where tokens end that a model is to stand to as one that never knew."""

import jax.numpy as jnp
import numpy as np
import pytest

from jax_surgery.methods.never_knew import CHANCE, NeverKnew
from jax_surgery.models.compared import Compared
from jax_surgery.models.logprobs import TokenLogprobs


def found(logp, rival=-0.5, margin=0.0):
    """Values of one token whose likeliest other has `rival` nats."""
    one = lambda value: jnp.asarray([value], jnp.float32)
    return TokenLogprobs(one(logp), one(margin), jnp.asarray([False]), one(rival))


def test_a_token_at_its_end_is_above_three_others_in_a_quarter_of_cases():
    others = np.random.default_rng(0).normal(-5.0, 2.0, size=(200_000, 3))
    end = -5.0 + CHANCE * 2.0
    assert (end > others).all(1).mean() == pytest.approx(0.25, abs=0.005)


@pytest.mark.parametrize("far", [-3.0, -0.2, 0.0, 0.2, 3.0])
def test_a_token_below_its_end_is_drawn_up_and_one_above_it_down(far):
    method = NeverKnew(below=0.25, softness=0.5)
    others = Compared(jnp.asarray([far + CHANCE * 2.0]), jnp.asarray([2.0]))
    (got,) = method.unlearn(found(-6.0), jnp.asarray([-9.0]), others)
    distance = far if far > 0 else 0.25 * -far
    near = min(distance, 0.5)
    assert float(got) == pytest.approx(near * (distance - near / 2) / 0.5, abs=1e-5)


def test_the_first_choice_is_never_where_a_token_ends():
    """A token among other answers may still be the likeliest of all."""
    others = Compared(jnp.asarray([-1.0]), jnp.asarray([0.0]))
    (got,) = NeverKnew(softness=0.5).unlearn(found(-0.3, -1.5), jnp.zeros(1), others)
    assert float(got) == pytest.approx(1.2 + np.log(2) - 0.25, abs=1e-5)


def test_without_other_answers_log_odds_end_at_their_target_and_stay_below_it():
    method = NeverKnew(softness=0.5)
    (above,) = method.unlearn(found(-6.0, margin=-6.0), jnp.asarray([-8.0]))
    assert float(above) == pytest.approx(1.75, abs=1e-5)
    (below,) = method.unlearn(found(-6.0, margin=-9.0), jnp.asarray([-8.0]))
    assert float(below) == 0.0


def test_a_negative_weight_below_is_refused():
    with pytest.raises(ValueError, match="never_knew.below=-1; use 0 or more"):
        NeverKnew(below=-1)
