# SPDX-License-Identifier: Apache-2.0
"""What results.json of runs holds, made up, for tests of what is said of them."""

from typing import Any

from jax_surgery.metrics.intervals import wilson_interval


def asked(right: float, n: int = 1000, chance: float = 0.25) -> dict[str, Any]:
    """Accuracy of a group's questions.

    Args:
      right: share of them.
    """
    interval = list(wilson_interval(round(right * n), n))
    return {"accuracy": right, "n": n, "interval": interval, "chance": chance}


def of_questions(forgotten=0.26, learned=0.97, retained=0.99, n=1000, **more) -> dict:
    """A surgery on texts by role that asks questions about each."""
    text = {"nll_per_token": 1.0, "memorised": 0.5, "tokens": 100}
    text |= {"interval": [0.9, 1.1], "memorised_interval": [0.4, 0.6], "n": 10}
    return {
        "before": {
            "old": asked(1.0, n),
            "new": asked(0.26, n),
            "rest": asked(1.0, 10 * n),
            "unnamed": asked(1.0, n),
        },
        "after": {
            "old": asked(forgotten, n),
            "new": asked(learned, n),
            "rest": asked(retained, 10 * n),
            "unnamed": asked(0.0, n),
        },
        "group_roles": {
            "old": "unlearn",
            "new": "update",
            "rest": "retain",
            "unnamed": "",
        },
        "roles": {
            role: {"before": text, "after": text}
            for role in ("unlearn", "update", "retain")
        },
        "cost": {"surgery_flops": 2e12},
        "settings": {"run": "surgery", "model": "m", "steps": 4},
    } | more


def attacked(verdict: str, **worst: Any) -> dict[str, Any]:
    """The verdict of a run's own attacks."""
    one = {"attack": "blocks", "label": "layer 2 without its MLP", "steps": 1,
           "group": "old", "metric": "multiple_choice", "value": 0.7, "n": 240,
           "reference": 0.25, "by_chance": True, "above": 0.45}  # fmt: skip
    found = {
        "verdict": verdict,
        "why": "so it is",
        "tries": 12,
        "worst": {"old": one | worst},
    }
    return {"verdict": found, "attacks": []}
