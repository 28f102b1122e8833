# SPDX-License-Identifier: Apache-2.0
"""Metrics: how a model is scored on a probe, `(Model, Probe) -> Estimate`.

A new metric is one file and one line in `METRICS`; `tests/conformance/test_metrics.py`
then tests it. What scores a model beside another one is in `COMPARISONS`.
"""

from jax_surgery import plugins
from jax_surgery.metrics import (
    answer_accuracy,
    answer_probability,
    any_of_samples,
    exact_match,
    exact_memorisation,
    knowmem,
    likelihood,
    likelihood_magnitude,
    likelihood_success,
    min_k_auc,
    multiple_choice,
    nats_per_token,
    privleak,
    rouge_l,
    said,
    token_accuracy,
    unchanged_tokens,
    verbmem,
)
from jax_surgery.metrics.base import (
    Comparison,
    Each,
    Estimate,
    Metric,
    estimates,
    measure,
    observations,
)

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
        token_accuracy,
        likelihood_success,
        likelihood_magnitude,
        said,
        verbmem,
        knowmem,
        min_k_auc,
        any_of_samples,
    )
}
COMPARISONS: dict[str, Comparison] = {
    member.COMPARISON.name: member.COMPARISON for member in (unchanged_tokens, privleak)
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


__all__ = [
    "COMPARISONS",
    "METRICS",
    "Comparison",
    "Each",
    "Estimate",
    "Metric",
    "estimates",
    "find",
    "measure",
    "observations",
]
