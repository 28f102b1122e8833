# SPDX-License-Identifier: Apache-2.0
"""What the scripts of results/ share: settings, and the parts of a table's page."""

import importlib
import importlib.metadata
import statistics
from collections.abc import Iterable, Sequence


def settings_of(name: str, **fields):
    """The settings of configs/NAME.py with some fields changed, "section.field"."""
    from jax_surgery.runs import settings

    config = importlib.import_module(f"configs.{name}").get_config()
    config.update_from_flattened_dict(fields)
    return settings.from_config(config)


def line(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [line(heads), "|" + "---|" * len(heads), *map(line, rows)]
    return "\n".join(lines) + "\n"


def mean_and_deviation(values: Sequence[float], digits: int) -> str:
    """ "mean ± deviation"; the mean alone of one value."""
    mean = f"{statistics.mean(values):.{digits}f}"
    if len(values) < 2:
        return mean
    return f"{mean} ± {statistics.stdev(values):.{digits}f}"


def versions(*packages: str) -> str:
    """The installed versions of packages, as text."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)


def on_this_machine() -> str:
    """Devices, machine and versions that a table was made with."""
    import jax

    from jax_surgery.report import page

    found, device = page.versions(), jax.devices()[0].device_kind
    return (
        f"{jax.device_count()} {device} device, {found['machine']}, Python "
        f"{found['python']}, jax {found['jax']}, flax {found['flax']}"
    )
