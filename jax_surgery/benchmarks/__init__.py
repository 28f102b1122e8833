# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: groups of text with roles, what is asked of them, models that know them.

A new benchmark is one file with a frozen dataclass (see `benchmarks.base.Benchmark`) and
one line in `BENCHMARKS`; `tests/conformance/test_benchmarks.py` then tests it. Importing
this package makes the sets of its own ones readable as data sources (`embedded:NAME`,
`suite:TASK[:SPLIT]`).
"""

import functools

from etils import epath

from jax_surgery import plugins
from jax_surgery.benchmarks import (
    counterfact,
    editing,
    embedded,
    knowedit,
    muse,
    paper,
    suite,
    tofu,
    wmdp,
    zsre,
)
from jax_surgery.benchmarks.base import Benchmark
from jax_surgery.checkpoints import hf_index
from jax_surgery.data import sources

BENCHMARKS: dict[str, type[Benchmark]] = {
    "embedded": embedded.Embedded,
    "suite": suite.Suite,
    "tofu": tofu.Tofu,
    "paper": paper.Paper,
    "muse": muse.Muse,
    "wmdp": wmdp.Wmdp,
    "counterfact": counterfact.CounterFact,
    "zsre": zsre.Zsre,
    "knowedit": knowedit.KnowEdit,
}


def parse(spec: str, path: str = "config.benchmark") -> Benchmark:
    """The benchmark that a config's field names, e.g. "suite:targets=add+sub".

    Raises:
      ValueError: see `plugins.parse`.
    """
    return plugins.parse(spec, BENCHMARKS, path)


def model_source(name: str) -> str:
    """The directory or hub name of `config.model`.

    Args:
      name: of a benchmark, of which it is the model that knows it; a finished run's
        workdir, of which it is the exported model; else what it stands for itself.
    """
    if name in BENCHMARKS:
        return BENCHMARKS[name].MODEL or name
    folder = epath.Path(name)
    # A workdir has a config.json of its own, the run's; a model has weights beside it.
    exported, weights = folder / "model", ("model.safetensors", hf_index.INDEX)
    holds_weights = any((folder / file).exists() for file in weights)
    if (exported / "config.json").exists() and not holds_weights:
        return str(exported)
    return name


sources.READERS["embedded"], sources.READERS["suite"] = embedded.load, suite.load
sources.READERS["paper"] = paper.load
sources.READERS["tofu_refusals"] = tofu.read_refusals
sources.READERS["muse"] = muse.load
for _edited in (counterfact.CounterFact, zsre.Zsre, knowedit.KnowEdit):
    sources.READERS[_edited.NAME] = functools.partial(editing.of_source, _edited)
sources.TFDS_BUILDERS["embedded_world"] = "jax_surgery.benchmarks.embedded.builder"
