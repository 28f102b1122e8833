# SPDX-License-Identifier: Apache-2.0
"""Tests of which answers a model finds the likeliest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_settings import plain_compute

from jax_surgery.data.forms import parse_record
from jax_surgery.data.template_marks import end_tokens
from jax_surgery.data.tokens import encode_whole, without_end
from jax_surgery.metrics import likely_answers
from jax_surgery.models import decoder, output_head
from jax_surgery.models.model import Model

ANSWERS = ("9", "the number is 3", "7", "1")


@pytest.fixture
def model(tiny_model):
    return Model(
        tiny_model.params, tiny_model.config, tiny_model.tokenizer, plain_compute()
    )


def rows(question, answers=ANSWERS):
    return [
        parse_record({"prompt": question, "answer": f" {answer}"}, f"{question}:{i}")
        for i, answer in enumerate(answers)
    ]


def test_answers_are_ranked_by_the_sum_of_their_log_probabilities(model):
    of = [rows("the number 4 is"), rows("the number 5 is", ANSWERS[:2])]
    ends = end_tokens(model.tokenizer)
    wanted = []
    for one in of:
        found = []
        for document in encode_whole(one, model.tokenizer):
            document = without_end(document, ends)
            ids = jnp.asarray(document.tokens)
            hidden = decoder.forward(model.params, model.config, ids[None])[0]
            logits = hidden @ output_head.kernel(model.params)
            logp = jax.nn.log_softmax(logits)[jnp.arange(len(ids) - 1), ids[1:]]
            found.append(float(logp[document.learned[1:]].sum()))
        wanted.append(np.argsort(-np.asarray(found)).tolist())
    assert likely_answers.ranks(model, of) == wanted


def test_without_answers_nothing_is_ranked(model):
    assert likely_answers.ranks(model, []) == []
    assert likely_answers.ranks(model, [[], []]) == [[], []]
