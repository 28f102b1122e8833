# SPDX-License-Identifier: Apache-2.0
"""What a surgery costs against the naive alternative, in FLOPs.

The naive alternative is to train on the update and retain text, from where the model
began, for as many passes as it took to learn. Every forward pass of the surgery
counts: gradients, the reference, the statistics; and the algebra of the preconditioner
and of Muon. Tokens include padding, which is computed too.
"""

import functools
from typing import Any

from jax_surgery.data.role_names import ROLES
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.data.role_texts import RoleTexts
from jax_surgery.methods import importance
from jax_surgery.methods.descent import output_statistics_rows, statistics_rows
from jax_surgery.methods.inside import relearned
from jax_surgery.methods.loku import LoKU
from jax_surgery.methods.settings import SurgerySettings
from jax_surgery.models import flops, layout
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.trainable import Trainable
from jax_surgery.optim import newton_schulz


def of_stage(
    settings: SurgerySettings, texts: RoleTexts, config: ModelConfig
) -> tuple[dict[str, int], dict[str, float]]:
    """The tokens that a stage which descends reads, by use; its FLOPs, by item.

    Args:
      settings: of the stage.
      texts: of all roles.
    """
    data, optimizer, steps = settings.data, settings.optimizer, settings.steps
    context, moves = data.context, settings.trainable(config)
    read_on = settings.loss.readings(RoleRows(*(data.rows[role] for role in ROLES)))
    reference = sum(data.rows[role] for role in read_on) * steps
    if settings.reference == "cached":
        reference = sum(len(texts.packers[role].pack()) for role in read_on)
    tokens = {
        "trained_tokens": sum(data.rows.values()) * steps * context,
        "reference_tokens": reference * context,
        "statistics_tokens": 0,
    }
    trained, once = tokens["trained_tokens"], 0
    if settings.reference == "cached" and moves.first_layer:
        # The layers below read each text once, and no more at each step.
        present = [role for role in ROLES if data.rows[role]]
        once = sum(len(texts.packers[role].pack()) for role in present) * context
    below = functools.partial(
        flops.layers_flops, config, context=context, layers=moves.first_layer
    )
    items = {
        "training": flops.training_flops(
            config, trained, context, moves, settings.lora.rank
        )
        - (below(trained) - below(once) if once else 0),
        # The live or cached reference applies its own head inside the KL as well.
        "reference": flops.forward_flops(config, tokens["reference_tokens"], context),
    }
    items |= _inside(settings, texts, config)
    items |= _of_method(settings, texts, config)
    iterations = newton_schulz.STEPS
    if optimizer.name == "muon":
        each = flops.newton_schulz_flops(config, moves, iterations)
        items["orthogonalisation"] = steps * each
    if optimizer.preconditioned:
        assert texts.retained, "a preconditioner without it is refused"
        read = tokens["statistics_tokens"] = (
            statistics_rows(texts.retained, settings) * context
        )
        layers = config.num_layers - moves.first_layer
        widths = layout.statistics(config, moves.matrices)
        each = flops.solve_flops(config, moves)
        if optimizer.name == "orthogonal":
            each += flops.newton_schulz_flops(config, moves, iterations)
        items["statistics"] = flops.moments_flops(config, read, context, widths, layers)
        items["preconditioner"] = flops.cholesky_flops(widths, layers) + steps * each
        if optimizer.reads_outputs:
            more = output_statistics_rows(texts.retained, settings) * context
            tokens["statistics_tokens"] += more
            widths = layout.outputs(config, moves.matrices)
            items["statistics"] += flops.output_moments_flops(
                config, more, context, widths, layers
            )
            each = flops.solve_flops(config, moves, of_outputs=True)
            items["preconditioner"] += 3 * flops.cholesky_flops(widths, layers)
            items["preconditioner"] += steps * each
    return tokens, items


def _of_method(
    settings: SurgerySettings, texts: RoleTexts, config: ModelConfig
) -> dict[str, float]:
    """What a method's own passes cost: the step uphill of those that are sharpness-aware,
    and the squared gradients with which LoKU's deltas begin."""
    data, method, found = settings.data, settings.loss.method, {}
    if method.sharpness:
        tokens = data.rows["unlearn"] * settings.steps * data.context
        moves = settings.trainable(config)
        found["uphill"] = flops.training_flops(
            config, tokens, data.context, moves, settings.lora.rank
        )
    if isinstance(method, LoKU) and texts.packers:
        assert texts.retained, "LoKU without retained text is refused"
        moves = Trainable(0, settings.lora.targets)
        found["importance"] = 0.0
        for corpus in (texts.packers["unlearn"], texts.retained):
            groups = importance.chosen(corpus.documents, method, settings.seed)
            rows, width = importance.shape(groups)
            read = flops.training_flops(config, rows * width, width, moves)
            found["importance"] += len(groups) * read
    return found


def _inside(
    settings: SurgerySettings, texts: RoleTexts, config: ModelConfig
) -> dict[str, float]:
    """What unlearning inside the model costs beside the steps: the head's products with
    the states inside, at most those of whole rows, and the training of copies."""
    inside, data = settings.inside, settings.data
    packer = texts.packers.get("unlearn")
    if not (inside.is_used and packer and data.rows["unlearn"]):
        return {}
    moving = config.num_layers - settings.trainable(config).first_layer
    learned = packer.learned.mean()
    tokens = data.rows["unlearn"] * settings.steps * data.context * learned
    states = 2 * moving - 1 if inside.lens else 0
    # A product makes the logits, and one the gradients of the states.
    head = 2 * 2 * config.hidden_size * config.vocab_size
    copies = relearned.spent(
        inside,
        len(packer.documents),
        settings.steps,
        settings.seed,
        config,
        data.context,
    )
    return {"inside": float(states * tokens * head), "copies": copies}


def of_surgery(
    settings: SurgerySettings, texts: RoleTexts, config: ModelConfig, epochs: float
) -> dict[str, Any]:
    """The `cost` of results.json.

    Rounds of subspaces, whose number is not known before, are not counted; a run that
    has some is not compared.

    Args:
      epochs: passes of the naive alternative; 0 where that is not known.

    Returns:
      {"surgery_flops", "items": FLOPs by item, and the tokens by use}; where the naive
      alternative is known also {"baseline_flops", "ratio": baseline / surgery (50 says
      the surgery is 50 times cheaper), "baseline_tokens", "baseline_epochs"}.
    """
    stages = [
        of_stage(settings.of_descent(stage), texts, config)
        for stage in settings.descents
    ]

    def total(part: int) -> dict[str, Any]:
        names = dict.fromkeys(name for stage in stages for name in stage[part])
        return {n: sum(stage[part].get(n, 0) for stage in stages) for n in names}

    tokens, items = total(0), total(1)
    surgery = sum(items.values())
    found = {"surgery_flops": surgery, "items": items, **tokens}
    if not epochs or len(stages) < len(settings.stages):
        return found
    read = round(texts.learned_tokens * epochs)
    baseline = flops.training_flops(config, read, settings.data.context)
    return found | {
        "baseline_flops": baseline,
        "ratio": baseline / surgery if surgery else float("inf"),
        "baseline_tokens": read,
        "baseline_epochs": epochs,
    }
