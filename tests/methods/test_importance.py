# SPDX-License-Identifier: Apache-2.0
"""How much weights matter for texts: mean squared gradients."""

import jax
import numpy as np
import pytest
from objective_cases import CONFIG, documents
from settings_cases import plain_surgery

from jax_surgery.methods import importance
from jax_surgery.methods.loku import LoKU
from jax_surgery.models import decoder
from jax_surgery.models.model import Model
from jax_surgery.models.trainable import Trainable
from jax_surgery.train import finetune

TRAINABLE = Trainable(0, ("q", "up"))
CONTEXT = 32  # of the rows that they are compared in


@pytest.fixture(scope="module")
def model():
    params = decoder.init_params(CONFIG, 0)
    return Model(params, CONFIG, None, decoder.DEFAULT_COMPUTE)


@pytest.mark.slow
@pytest.mark.parametrize("texts", [1, 2])
def test_it_is_the_mean_of_squared_gradients_of_groups(model, texts):
    own = documents(0, 4)
    groups = importance.chosen(own, LoKU(texts=texts), 0)
    found = importance.importance(model, groups, TRAINABLE)
    total, tokens = 0.0, 0
    for group in groups:
        assert len(group) == texts
        batch, _ = finetune.text_batch(group, CONTEXT, 1)
        ce = lambda p, batch=batch: finetune.cross_entropy(
            p, CONFIG, batch, model.compute
        )
        count = sum(d.learned[1:].sum() for d in group)
        kernel = jax.grad(ce)(model.params)["layers"]["mlp"]["up"]["kernel"]
        total, tokens = total + count * np.square(kernel), tokens + count
    np.testing.assert_allclose(found["up"], total / tokens, rtol=1e-4, atol=1e-9)
    assert set(found) == {"q", "up"}
    assert importance.shape(groups) == (texts, importance.TOKENS)


def test_some_texts_are_read_in_groups():
    texts = documents(0, 9)
    groups = importance.chosen(texts, LoKU(texts=2, most=5), 1)
    assert [len(group) for group in groups] == [2, 2, 1]
    every = importance.chosen(texts, LoKU(texts=4, most=0), 1)
    assert sum(map(len, every)) == 9
    assert groups == importance.chosen(texts, LoKU(texts=2, most=5), 1)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"method": "loku"}, "whose rank config.lora.rank is 0; give 8"),
        (
            {"method": "task_vector", "data": {"rows_unlearn": 1, "rows_update": 2}},
            "rows_update=2 would be learned in them; write task_vector@unlearn;surgery",
        ),
    ],
)
def test_what_a_rival_cannot_do_is_said_at_once(fields, said):
    with pytest.raises(ValueError, match=said):
        plain_surgery(model="x", **fields)
