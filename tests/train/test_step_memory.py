# SPDX-License-Identifier: Apache-2.0
"""What a step takes beside its state, by the compiler: nothing of what does not move."""

import jax
import numpy as np
import pytest
from plain_settings import plain_loss, plain_optimizer

from jax_surgery.data.batch import Batch
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.models import decoder
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.trainable import Trainable
from jax_surgery.optim.optimizer import make_optimizer
from jax_surgery.train import step as steps

ROWS, TOKENS = 2, 8


def temporaries(layers: int, accumulate: int, **optimizer) -> int:
    """Bytes that a step takes of which only the last layer's `up` and `down` move."""
    config = ModelConfig(31, 32, 128, layers, 4, 2, 8)
    trainable = Trainable(layers - 1, ("up", "down"))
    chosen = make_optimizer(plain_optimizer(**optimizer), 5, trainable)
    step = steps.make_train_step(
        config,
        plain_loss(),
        RoleRows(0, ROWS, 0),
        chosen,
        accumulate=accumulate,
        trainable=trainable,
    )
    params = decoder.abstract_params(config)
    state = jax.eval_shape(lambda p: steps.init_state(p, chosen), params)
    ids = np.ones((ROWS, TOKENS), np.int32)
    weights = np.ones((ROWS, TOKENS), np.float32)
    batch = Batch(ids, ids, ids, weights_BT=weights, position_weights_BT=weights)
    compiled = step.lower(state, batch, None).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_holds_no_gradients_of_layers_that_do_not_move(accumulate):
    few, many = (
        temporaries(layers, accumulate, weight_decay=0.1, clip=1.0)
        for layers in (2, 42)
    )
    # Of `up` alone the gradients of 40 layers would take 640 KiB.
    assert many - few < 40 * 32 * 128 * 4 / 4
