# SPDX-License-Identifier: Apache-2.0
"""What parts of a surgery's settings must have in common (`settings.SurgerySettings`)."""

from typing import Any

from jax_surgery.methods.automatic.settings import MEASURED
from jax_surgery.methods.base import HiddenMethod, TokenMethod
from jax_surgery.methods.never_knew import NeverKnew


def streams(settings: Any) -> None:
    """Raises ValueError where something would leave weights of sources out."""
    of = [role for role, weights in settings.data.stream_weights.items() if weights]
    for stage in settings.stages if of else ():
        if stage.descends and isinstance(stage.method, TokenMethod | HiddenMethod):
            continue
        raise ValueError(
            f"config.data.{of[0]} has weighted sources, and {stage.text!r} of "
            f"config.method={settings.method!r} has no term of single tokens that they "
            "could weigh; leave the weights out, or use config.method=surgery."
        )
    if of and settings.retain.budget:
        raise ValueError(
            f"config.data.{of[0]} has weighted sources, and a run with "
            f"config.retain.budget={settings.retain.budget:g} sets weights itself; leave "
            "them out, or use config.retain.budget=0."
        )


def stop(settings: Any) -> None:
    """Raises ValueError where rules of when to stop do not go with the rest."""
    if not settings.stop.is_used:
        return
    needed = {
        f"config.method={settings.method!r}": (
            "one stage of a method that descends, such as surgery",
            len(settings.stages) == 1 and settings.stages[0].descends,
        ),
        f"config.retain.budget={settings.retain.budget:g}": (
            "0: a run that keeps to a budget has an end of its own",
            not settings.retain.budget,
        ),
        f"config.lora.rank={settings.lora.rank}": (
            "0: the models of points are of the weights themselves",
            not settings.lora.rank,
        ),
        f"config.loop.evaluate_every={settings.loop.evaluate_every}": (
            "steps between evaluations, which the rules read",
            settings.loop.evaluate_every > 0,
        ),
    }
    for given, (instead, fits) in needed.items():
        if not fits:
            raise ValueError(
                f"{given} does not go with config.stop.reference="
                f"{settings.stop.reference!r} and retention={settings.stop.retention:g}; use "
                f"{instead}; or config.stop.reference= and config.stop.retention=0."
            )


def reference(settings: Any) -> None:
    """Raises ValueError where a reference model of its own does not go with the rest."""
    named = f"config.reference_model={settings.reference_model!r}"
    if settings.reference_model and (settings.lora.rank or settings.retain.budget):
        field = "lora.rank" if settings.lora.rank else "retain.budget"
        raise ValueError(
            f"{named}: with config.{field} above 0 the reference is the model before "
            f"the run; use config.reference_model= or config.{field}=0."
        )
    below = settings.optimizer.first_layer != 0 and settings.reference == "cached"
    if settings.reference_model and below:
        raise ValueError(
            f"{named} with config.reference='cached' and config.optimizer.first_layer="
            f"{settings.optimizer.first_layer}: what is cached below that layer is the "
            "model's own; use config.reference='live', or first_layer=0."
        )


def budget(settings: Any) -> None:
    """Raises ValueError where the budget and the method do not go together."""
    automatic = [isinstance(stage.method, NeverKnew) for stage in settings.stages]
    budget, named = settings.retain.budget, f"config.method={settings.method!r}"
    if any(automatic) and not budget:
        raise ValueError(
            f"{named} measures where each token ends, in a run that keeps to a "
            "budget; give config.retain.budget, 0.02 say (configs/automatic.py)."
        )
    if not budget:
        return
    needed = {
        f"{named}": ("never_knew, alone", automatic == [True]),
        f"config.data.rows_unlearn={settings.data.rows_unlearn}": (
            "1 or more",
            settings.data.rows_unlearn > 0,
        ),
        f"config.data.rows_retain={settings.data.rows_retain}": (
            "1 or more",
            settings.data.rows_retain > 0,
        ),
        f"config.data.surprise={settings.data.surprise:g}": (
            "0: the model itself says which tokens carry knowledge",
            not settings.data.surprise,
        ),
        f"config.data.enrich_update={settings.data.enrich_update} and enrich_retain="
        f"{settings.data.enrich_retain}": (
            "0: such a run writes other wordings by itself (config.retain.complete)",
            not settings.data.enriched,
        ),
        f"config.objective.alpha={settings.objective.alpha:g}": (
            "0 or more",
            settings.objective.alpha >= 0,
        ),
        f"config.objective.beta={settings.objective.beta:g}": (
            "0 or more",
            settings.objective.beta >= 0,
        ),
        f"config.objective.gamma={settings.objective.gamma:g}": (
            "more than 0",
            settings.objective.gamma > 0,
        ),
        f"config.objective.retain={settings.objective.retain!r}": (
            "'kl', which the budget is of",
            settings.objective.retain == "kl",
        ),
        f"config.inside.silenced={settings.inside.silenced:g}": (
            "0: what is left out would move held-out text",
            not settings.inside.silenced,
        ),
        f"config.inside.copies={settings.inside.copies}": (
            "0: a run that keeps to a budget makes none",
            not settings.inside.copies,
        ),
        f"config.lora.rank={settings.lora.rank}": (
            "0: the best point is of the weights themselves",
            not settings.lora.rank,
        ),
        f"config.optimizer.name={settings.optimizer.name!r}": (
            f"one of {', '.join(MEASURED)}, whose steps are measured by the KL",
            settings.optimizer.name in MEASURED,
        ),
        f"config.optimizer.matrices={settings.optimizer.matrices!r}": (
            "some of q,k,v,o,gate,up,down",
            bool(settings.optimizer.matrices),
        ),
    }
    for given, (instead, fits) in needed.items():
        if not fits:
            raise ValueError(
                f"{given} does not go with config.retain.budget={budget:g}; use "
                f"{instead}, or config.retain.budget=0 for fixed steps."
            )
