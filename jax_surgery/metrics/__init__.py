# SPDX-License-Identifier: Apache-2.0
"""Metrics: how a model is scored on a probe, `(Model, Probe) -> Estimate`.

A new metric is one file and one line in `METRICS`; `tests/conformance/test_metrics.py`
then tests it.
"""

from jax_surgery import plugins
from jax_surgery.metrics import (
    answer_accuracy,
    answer_probability,
    any_of_samples,
    exact_match,
    exact_memorisation,
    likelihood,
    multiple_choice,
    nats_per_token,
    rouge_l,
)
from jax_surgery.metrics.base import Estimate, Metric, measure

METRICS: dict[str, Metric] = {
    member.METRIC.name: member.METRIC
    for member in (
        multiple_choice,
        answer_accuracy,
        exact_match,
        likelihood,
        nats_per_token,
        exact_memorisation,
        answer_probability,
        rouge_l,
        any_of_samples,
    )
}


def find(name: str, path: str = "config.metrics") -> Metric:
    """The metric of a name in `METRICS`, or of MODULE.NAME from outside.

    Raises:
      ValueError: there is none.
    """
    found = plugins.find(name, METRICS, path)
    if not isinstance(found, Metric):
        raise ValueError(  # noqa: TRY004, of a config, which users read in one line
            f"{path}={name!r} is a {type(found).__name__}; name a `Metric`."
        )
    return found


__all__ = ["METRICS", "Estimate", "Metric", "find", "measure"]
