# SPDX-License-Identifier: Apache-2.0
"""TOFU's own scores of a model, as runs measure and print them."""

from typing import Any

from etils import epath

from jax_surgery.benchmarks.tofu import Tofu
from jax_surgery.command_line import wrapped
from jax_surgery.metrics import tofu
from jax_surgery.models.model import Model
from jax_surgery.parallel import distributed

LOG = "tofu_log.json"


def check(benchmark: Tofu) -> None:
    """Reads all that the scores need, before a model is loaded.

    Raises:
      FileNotFoundError, ValueError: files or the retain log are absent or malformed.
    """
    benchmark.asked()
    if benchmark.retain_log:
        tofu.read_log(benchmark.retain_log)


def measure(
    model: Model, benchmark: Tofu, directory: str, name: str = LOG
) -> dict[str, Any]:
    """Asks a model, writes its log into a run's directory, and prints and gives its scores.

    Args:
      name: of the log's file.

    Returns:
      see `metrics.tofu.scores`; and "log", the file's name.

    Raises:
      ModelIsItsOwnReference, ValueError: see there.
    """
    log = tofu.ask(model, benchmark)
    if distributed.is_lead():
        tofu.write_log(log, epath.Path(directory) / name)
    path = benchmark.retain_log
    found = tofu.scores(log, tofu.read_log(path) if path else None)
    if distributed.is_lead():
        for line in tofu.summary(found):
            print(wrapped(line))
    return found | {"log": name}
