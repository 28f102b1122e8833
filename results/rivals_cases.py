# SPDX-License-Identifier: Apache-2.0
"""What results/rivals_table.py compares: methods, their rates, and steps for one budget."""

import dataclasses
import json
import pathlib
import random
from collections.abc import Mapping
from typing import Any

from tables import settings_of

from jax_surgery.benchmarks import embedded
from jax_surgery.benchmarks.embedded import vocabulary, world
from jax_surgery.methods import METHODS
from jax_surgery.methods.settings import SurgerySettings
from jax_surgery.models.config import ModelConfig
from jax_surgery.parallel.mesh import MeshShape
from jax_surgery.report import cost
from jax_surgery.runs.by_roles import ByRoles
from jax_surgery.train import devices

# The largest rate that is searched in the literature, of models 2048 wide (Llama-3.2-1B).
LARGEST, AT_WIDTH = 5e-5, 2048
# LoKU's authors train low-rank deltas with 1e-4 to 2e-4 where full training takes 1e-5.
LOW_RANK = 10
# The largest step of ours, of the norm of what moves; configs/surgery.py has the second.
OURS = 0.176
RATIO = 2.0  # between neighbouring rates

# Batches like those of the literature: as much retained text as text to unlearn. Rows of a
# batch are 11 together, as configs/surgery.py has them.
BATCH = {"data.rows_unlearn": 4, "data.rows_update": 3, "data.rows_retain": 4}
PAIRS = ("dpo", "idkpo", "altpo")
# Of methods without a retain term.
ALONE = {"data.rows_unlearn": 8, "data.rows_retain": 0}
# What methods need beside their names; the embedded model has 3 layers.
FIELDS: Mapping[str, Mapping[str, Any]] = {
    "ga": ALONE,
    "ceu": ALONE,
    "undial": ALONE,
    "rmu": {"method": "rmu:layer=1", "optimizer.matrices": "down"},
    "loku": {"method": "loku:most=128", "lora.rank": 8, "lora.alpha": 16.0},
    "task_vector": {"method": "task_vector@unlearn;surgery@update"},
}
# Of weights without a loss, or with measured targets that set their own steps: no rate to
# search. `ihl` is the loss of `loku`, on all weights.
LEFT_OUT = ("surgery", "never_knew", "subspace", "unlearn_paper")
CONFIGS = ("surgery", "robust")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A method of the table.

    Attributes:
      name: as the table has it.
      config: that it begins with, of configs/.
      fields: changed in it.
      largest: rate that is tried.
    """

    name: str
    config: str
    fields: Mapping[str, Any]
    largest: float

    def rates(self, count: int) -> list[float]:
        """The rates that are tried, the largest first."""
        return [self.largest / RATIO**i for i in range(count)]

    def settings(self, rate: float, steps: int, seed: int) -> SurgerySettings:
        """Of one run."""
        fields = {
            "optimizer.learning_rate": rate,
            "steps": steps,
            "seed": seed,
            "attacks": "",
            "save_dtype": "float32",
            "loop.evaluate_every": 0,
            "loop.checkpoint_every": 0,
        }
        return settings_of(self.config, **(dict(self.fields) | fields))


def entries(pairs: pathlib.Path, width: int) -> dict[str, Entry]:
    """All methods, ours first.

    Args:
      pairs: the file of texts in pairs, see `write_pairs`.
      width: of the model, by which rates are scaled.
    """
    found = {
        f"configs/{name}.py": Entry(f"configs/{name}.py", name, {}, OURS)
        for name in CONFIGS
    }
    largest = LARGEST * AT_WIDTH / width
    for name, member in METHODS.items():
        if name in LEFT_OUT:
            continue
        fields: dict[str, Any] = {"method": name} | BATCH
        published = {"retain": "nll"} | dict(member.published)
        fields |= {f"objective.{key}": value for key, value in published.items()}
        if name in PAIRS:
            fields["data.unlearn"] = str(pairs)
        fields |= FIELDS.get(name, {})
        scale = LOW_RANK if "lora.rank" in fields else 1
        found[name] = Entry(name, "paper_formula", fields, scale * largest)
    return found


def write_pairs(file: pathlib.Path) -> None:
    """The sentences of what is to be unlearned that name their person, each with the value
    that it states and another one that is neither the person's nor its replacement."""
    people = world.people()
    lines = []
    for group in ("obsolete", "problematic"):
        for index, person in enumerate(people[group]):
            new = people["update"][index].facts if group == "obsolete" else {}
            for number in range(world.BIOGRAPHIES):
                rng = random.Random(f"{world.SEED}/pairs/{group}/{index}/{number}")
                for one in world.biography(person, group, number):
                    taken = (one.value, new.get(one.attribute))
                    other = [
                        v for v in vocabulary.VALUES[one.attribute] if v not in taken
                    ]
                    record = {
                        "prompt": one.stem,
                        "answer": f" {one.value}.",
                        "alternative": f" {rng.choice(other)}.",
                    }
                    if person.name in one.stem:
                        lines.append(json.dumps(record))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")


def steps_for(entry: Entry, share: float) -> int:
    """The most steps that 1 / `share` of the naive alternative's FLOPs allow, all that the
    run computes being counted; at least 1."""
    case = ByRoles(entry.settings(entry.largest, 1, 0))
    with devices.on_mesh(MeshShape()):
        config: ModelConfig = case.load().config

    def fits(steps: int) -> bool:
        settings = entry.settings(entry.largest, steps, 0)
        spent = cost.of_surgery(settings, case.texts, config, embedded.EPOCHS)
        return spent["surgery_flops"] * share <= spent["baseline_flops"]

    low, high = 1, 2
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
