# SPDX-License-Identifier: Apache-2.0
"""Membership inference: does a model show that it was trained on some texts?

An adversary scores texts that were unlearned (members) and texts of the same kind that no
model has seen, and calls those with low scores members. A model that never knew its members
cannot be told so; where texts differ in more than membership even of such a model they can,
so what counts is how far the unlearned model lies above it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jax_surgery.attacks import gradient_norms
from jax_surgery.data.forms import Record
from jax_surgery.metrics import membership, separation
from jax_surgery.metrics.paired import holm
from jax_surgery.metrics.whole_texts import membership_scores, whole_texts
from jax_surgery.models.model import Model

REFERENCE = "reference"  # the score that needs a model that never knew
SCORES = {
    "loss": "mean negative log-likelihood",
    "zlib": "loss over the size of the compressed text",
    REFERENCE: "loss less that of a model that never knew",
    "min_k": "mean negative log-likelihood of the least likely tokens",
    "min_k_plus_plus": "the same, in deviations from the mean over the vocabulary",
    "gradient_norm": "mean over tensors of the norm of the loss's gradient",
}


class Sides(NamedTuple):
    """Values of members, and of texts that no model has seen, [texts] each."""

    members: np.ndarray
    others: np.ndarray


Scores = Mapping[str, Sides]


def scored(
    model: Model,
    sides: Sequence[Sequence[Record]],
    names: Sequence[str],
    share: float,
    context: int,
) -> dict[str, Sides]:
    """Scores of members and of others, by name; without `REFERENCE`.

    Args:
      sides: members, and texts that no model has seen.
      names: of `SCORES`; what one forward pass gives is always there.
      share: see `membership.min_k`.
      context: tokens of a row; longer texts are split, and their pieces scored together.

    Raises:
      ValueError: see `whole_texts`.
    """
    found = []
    for records in sides:
        texts = whole_texts(records, model, context)
        own = membership_scores(model, texts, share)
        if "gradient_norm" in names:
            own["gradient_norm"] = gradient_norms.gradient_norms(model, texts)
        found.append(own)
    return {name: Sides(values, found[1][name]) for name, values in found[0].items()}


def with_reference(own: Scores, never: Scores) -> dict[str, Sides]:
    """Scores with `REFERENCE` among them.

    Args:
      own: of the model.
      never: of the model that never knew, of the same texts.

    Raises:
      ValueError: the two have different texts, as of tokenizers that leave others out.
    """
    ours, theirs = own["loss"], never["loss"]
    if [len(side) for side in ours] != [len(side) for side in theirs]:
        raise ValueError(
            f"the two models read {[len(s) for s in ours]} and {[len(s) for s in theirs]} "
            "of the texts, so their scores cannot be compared in pairs: the tokenizer of "
            "one makes a single token of some. Leave texts of a single word out."
        )
    less = Sides(
        membership.over_reference(ours.members, theirs.members),
        membership.over_reference(ours.others, theirs.others),
    )
    return dict(own) | {REFERENCE: less}


def told(own: Scores, never: Scores | None, names: Sequence[str]) -> dict[str, Any]:
    """What each score tells, as results.json has it.

    Args:
      own: of the model, by name.
      never: of a model that never knew, or None.
      names: of the scores that are told.

    Returns:
      {score: {"model": {"auc": {"value", "interval", "n", "reference", "direction"},
      "tpr": by the false positive rate the same}, and where it is given
      "reference_model": the same, "excess": the AUC less that model's {"value",
      "interval", "p", "p_holm": of all scores together}}}. `REFERENCE` compares with that
      model itself, and has no excess.

    Raises:
      ValueError: scores that are no numbers.
    """
    found: dict[str, Any] = {}
    for name in names:
        entry = {"model": separation.separation(*own[name]).as_json()}
        if never is not None and name in never:
            theirs = never[name]
            entry["reference_model"] = separation.separation(*theirs).as_json()
            sides = zip(own[name], theirs, strict=True)
            entry["excess"] = dataclasses.asdict(separation.compared(*sides))
        found[name] = entry
    several = [entry["excess"] for entry in found.values() if "excess" in entry]
    adjusted = holm([one["p"] for one in several])
    for one, p in zip(several, adjusted, strict=True):
        one["p_holm"] = p
    return found


def leakage(found: Mapping[str, Any]) -> dict[str, Any]:
    """Privacy leakage of `min_k` as results.json has it; {} where `min_k` or the model that
    never knew is left out.

    Args:
      found: see `told`.

    Returns:
      {"leakage": {"value": percent, "reference": 0}}, or {"warnings": why it has none}.
    """
    entry = found.get("min_k", {})
    if "reference_model" not in entry:
        return {}
    values = [entry[of]["auc"]["value"] for of in ("model", "reference_model")]
    try:
        value = membership.privacy_leakage(*values)
    except ValueError as error:
        return {"warnings": [str(error)]}
    return {"leakage": {"value": value, "reference": 0.0}}
