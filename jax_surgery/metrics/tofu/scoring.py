# SPDX-License-Identifier: Apache-2.0
"""TOFU's scores of a log, by the definitions of its authors (arXiv 2401.06121).

- Probability: exp(-loss) of the answer; of real authors and world facts that over the sum
  of it and the wrong answers' (Section 2.2.1).
- Truth ratio of a question: R = exp(mean log p(wrong)) / p(paraphrase), p normalised by
  length. A split's value is the mean of min(R, 1/R) on forget, of max(0, 1 - R) elsewhere
  (`aggregate_eval_stat.py` of the authors, the published numbers).
- Model utility: the harmonic mean of probability, ROUGE-L recall and truth ratio on retain,
  real authors and world facts.
- Forget quality: the two-sample Kolmogorov-Smirnov test between R of the model and R of one
  that never read the forget split.
- Privacy leakage (MUSE, arXiv 2407.06460): how far the AUC of an attack by Min-40 % that
  tells held-out people from the forget split is from that of the retain model, in percent.
"""

import dataclasses
from typing import Any

import numpy as np

from jax_surgery.metrics import separation
from jax_surgery.metrics.base import Direction, Estimate
from jax_surgery.metrics.intervals import DRAWS, bootstrap_mean
from jax_surgery.metrics.tofu.log import Log, Table

UTILITY = ("retain", "real_authors", "world_facts")
NORMALISED = ("real_authors", "world_facts")  # answers among given ones
SAME = 1e-3  # relative difference of losses below which two logs are of one model
UNKNOWN_AUC = 0.5  # of a model that read neither set
DIRECTIONS: dict[str, Direction] = {
    "probability": "knows",
    "rouge_l": "knows",
    "exact_memorisation": "knows",
    "extraction_strength": "knows",
    "truth_ratio": "neither",
}


class ModelIsItsOwnReference(ValueError):
    """The retain log holds the answers of the very model that is measured."""


@dataclasses.dataclass(frozen=True)
class ForgetQuality:
    """The Kolmogorov-Smirnov test of two models' truth ratios on the forget split.

    Attributes:
      statistic: the largest distance of the two distributions, 0 to 1.
      p: probability of one as large if the models were the same; high is good.
      log10_p: its logarithm.
      n, n_retain: questions asked of each.
    """

    statistic: float
    p: float
    log10_p: float
    n: int
    n_retain: int


def log_truth_ratios(table: Table) -> np.ndarray:
    """log R of each question, nats; see the top of this file."""
    return table.column("paraphrased_loss") - table.column("perturbed_loss").mean(1)


def values_of(table: Table, split: str) -> dict[str, np.ndarray]:
    """Each score of each question of a split, of those that the log holds.

    Raises:
      ValueError: values that are no numbers.
    """
    probability, ratio = np.exp(-table.loss), log_truth_ratios(table)
    if split in NORMALISED:
        probability /= probability + np.exp(-table.column("perturbed_loss")).sum(1)
    if split == "forget":
        truth = np.exp(-np.abs(ratio))
    else:
        truth = -np.expm1(np.minimum(ratio, 0.0))
    found = {
        "probability": probability,
        "rouge_l": table.column("rouge_l"),
        "truth_ratio": truth,
    }
    for name in ("exact_memorisation", "extraction_strength"):
        if (value := getattr(table, name)) is not None:
            found[name] = value
    for name, value in found.items():
        if broken := int((~np.isfinite(value)).sum()):
            raise ValueError(
                f"{name} is no number for {broken} of {len(value)} questions of {split}; "
                "the model's weights have diverged."
            )
    return found


def forget_quality(own: Log, retain: Log) -> ForgetQuality:
    """The test of the forget split; see the top of this file.

    Raises:
      ModelIsItsOwnReference: both logs hold the same losses.
      ValueError: they are of different forget splits.
    """
    from scipy import stats

    check_reference(own, retain)
    one, other = (log_truth_ratios(log.tables["forget"]) for log in (own, retain))
    found: Any = stats.ks_2samp(one, other)
    p = float(found.pvalue)
    # SciPy's p ends at 0 where it is below the smallest float64.
    log10_p = float(np.log10(max(p, np.finfo(float).tiny)))
    return ForgetQuality(float(found.statistic), p, log10_p, len(one), len(other))


def check_reference(own: Log, retain: Log) -> None:
    """Refuses a retain log that tells nothing of a model.

    Raises:
      ModelIsItsOwnReference, ValueError: see `forget_quality`.
    """
    if own.forget and retain.forget and own.forget != retain.forget:
        raise ValueError(
            f"the retain log {retain.source} is of {retain.forget} and the model was asked "
            f"{own.forget}; give the log of a model that never read {own.forget}."
        )
    tables = own.tables["forget"], retain.tables["forget"]
    for name in ("paraphrased_loss", "perturbed_loss"):
        one, other = (getattr(table, name) for table in tables)
        if one.shape != other.shape or not np.allclose(one, other, rtol=SAME, atol=0):
            return
    raise ModelIsItsOwnReference(
        f"the retain log {retain.source} holds the losses of the very model that is "
        f"measured ({own.source}): all {len(tables[0])} questions agree to {SAME:g}. Any "
        "model has a forget quality of 1 against itself; give the log of a model that "
        "never read the forget split."
    )


def model_utility(log: Log) -> Estimate:
    """The harmonic mean of nine scores, its interval by resampling each split's questions."""
    rng, splits = np.random.default_rng(0), []
    for split in UTILITY:
        values = values_of(log.tables[split], split)
        splits.append(
            np.stack([values[n] for n in ("probability", "rouge_l", "truth_ratio")])
        )
    value = harmonic_mean(np.concatenate([each.mean(1) for each in splits]))
    drawn = [
        each[:, rng.integers(each.shape[1], size=(DRAWS, each.shape[1]))].mean(-1)
        for each in splits
    ]
    means = np.apply_along_axis(harmonic_mean, 0, np.concatenate(drawn))
    low, high = np.percentile(means, (2.5, 97.5))
    count = sum(each.shape[1] for each in splits)
    return Estimate(float(value), (float(low), float(high)), count)


def harmonic_mean(values: np.ndarray) -> float:
    """n / sum(1 / x); 0 where one is 0."""
    return len(values) / float((1 / values).sum()) if values.min() > 0 else 0.0


def _told_apart(log: Log) -> tuple[np.ndarray, np.ndarray] | None:
    """Min-40 % of the forget split and of held-out people, where the log has both."""
    tables = log.tables.get("forget"), log.tables.get("holdout")
    found = [table.min_k for table in tables if table and table.min_k is not None]
    return (found[0], found[1]) if len(found) == 2 else None


def privacy_leakage(own: Log, retain: Log | None) -> dict[str, Any] | None:
    """100 ((1 - AUC) - (1 - AUC_retain)) / (1 - AUC_retain); None of a log without it.

    Below 0 the forget split is still recognised, above 0 it stands out as forgotten.

    Args:
      retain: where it has no AUC, that of chance is taken, and `reference_auc` says so.
    """
    if (scores := _told_apart(own)) is None:
        return None
    there = _told_apart(retain) if retain else None
    reference = float(separation.auc(*there)) if there else UNKNOWN_AUC
    if reference == 1:
        raise ValueError(
            f"the retain log {retain.source if retain else ''} tells every held-out "
            "question from the forget split (AUC 1), against which no leakage is defined."
        )
    leak = lambda auc: 100 * (reference - auc) / (1 - reference)
    rng = np.random.default_rng(0)
    drawn = [v[rng.integers(len(v), size=(DRAWS, len(v)))] for v in scores]
    low, high = np.percentile(leak(separation.auc(*drawn)), (2.5, 97.5))
    return {
        "value": float(leak(separation.auc(*scores))),
        "interval": (float(low), float(high)),
        "n": sum(map(len, scores)),
        "auc": float(separation.auc(*scores)),
        "reference_auc": reference,
        "reference_is": "the retain log" if there else "chance",
        "direction": "neither",
    }


def scores(own: Log, retain: Log | None = None) -> dict[str, Any]:
    """Everything that TOFU says of a model, as results.json holds it.

    Returns:
      {split: {score: {"value", "interval" (95 %, over questions), "n", "reference" (the
      retain model's value, or None), "direction"}}, "model_utility": the same,
      "privacy_leakage" where the log can tell, "forget_quality": see `ForgetQuality`; None
      without a retain log}.

    Raises:
      ModelIsItsOwnReference, ValueError: see `forget_quality` and `values_of`.
    """
    quality = forget_quality(own, retain) if retain else None
    found: dict[str, Any] = {"forget_split": own.forget}
    for split in ("forget", *UTILITY):
        there = values_of(retain.tables[split], split) if retain else {}
        entry = found[split] = {}
        for name, value in values_of(own.tables[split], split).items():
            reference = float(there[name].mean()) if name in there else None
            mean = Estimate(
                float(value.mean()), bootstrap_mean(value), len(value), reference
            )
            direction = "knows" if split != "forget" else DIRECTIONS[name]
            entry[name] = dataclasses.asdict(mean) | {"direction": direction}
    utility = model_utility(own)
    if retain:
        reference = model_utility(retain).value
        utility = dataclasses.replace(utility, reference=reference)
    found["model_utility"] = dataclasses.asdict(utility) | {"direction": "knows"}
    if leakage := privacy_leakage(own, retain):
        found["privacy_leakage"] = leakage
    found["forget_quality"] = dataclasses.asdict(quality) if quality else None
    return found


def summary(found: dict[str, Any]) -> list[str]:
    """The scores as lines of text."""

    def shown(entry: dict[str, Any], digits: int = 4) -> str:
        low, high = entry["interval"]
        reference = entry.get("reference")
        beside = "" if reference is None else f", retain model {reference:.{digits}f}"
        numbers = f"{entry['value']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
        return f"{numbers} of {entry['n']} questions{beside}"

    lines = [
        f"{split}: {name} {shown(entry)}"
        for split in ("forget", *UTILITY)
        for name, entry in found[split].items()
    ]
    lines.append(f"model utility {shown(found['model_utility'])}")
    if leakage := found.get("privacy_leakage"):
        lines.append(
            f"privacy leakage {shown(leakage, 2)} % (AUC {leakage['auc']:.4f} against "
            f"{leakage['reference_auc']:.4f} of {leakage['reference_is']})"
        )
    if quality := found["forget_quality"]:
        lines.append(
            f"forget quality p = {quality['p']:.3e}, log10 p = {quality['log10_p']:.2f} "
            f"(KS statistic {quality['statistic']:.4f}, of {quality['n']} and "
            f"{quality['n_retain']} questions)"
        )
    else:
        lines.append("forget quality needs a retain log (retain_log=FILE).")
    return lines
