# SPDX-License-Identifier: Apache-2.0
"""TPU slices by name: accelerator types, workers, runtimes, and prices of a day.

`jax_surgery/plan/topologies.py` has the same names; a test compares the two. This file
imports nothing outside the standard library.
"""

from __future__ import annotations

import dataclasses
import math
import re

from launch.errors import WrongInput

# US dollars per chip and hour, (on demand, spot), by region; None where there is none.
# Google bills by these, https://cloud.google.com/tpu/pricing shows them, and SkyPilot
# collects them from Google's billing service: the rows of PRICES_URL, divided by chips.
# Spot prices change up to once a month.
PRICES_READ = "2026-11-28"  # the day on which the file below was read
PRICES_URL = (
    "https://github.com/skypilot-org/skypilot-catalog/blob/"
    "006059e0f18acb1341e22a27751e9f80df6ba92f/catalogs/v8/gcp/vms.csv"
)
PRICES: dict[str, dict[str, tuple[float, float | None]]] = {
    "v4": {"us-central2": (3.22, 0.9215)},
    "v5e": {
        "asia-east1": (1.3895, 0.5558),
        "asia-northeast1": (1.5410, 0.4244),
        "asia-southeast1": (1.56, 0.78),
        "europe-north1": (1.3213, 0.6607),
        "europe-west1": (1.3213, 0.5285),
        "europe-west3": (1.416, 0.39),
        "europe-west4": (1.56, 0.445),
        "northamerica-northeast1": (1.3213, 0.3639),
        "southamerica-west1": (1.716, 0.4726),
        "us-central1": (1.20, 0.2449),
        "us-east1": (1.20, 0.2449),
        "us-east4": (1.20, 0.60),
        "us-east5": (1.20, 0.60),
        "us-south1": (1.416, 0.5664),
        "us-west1": (1.20, 0.2449),
        "us-west4": (1.20, 0.48),
    },
    "v5p": {
        "europe-west1": (4.4595, 1.7838),
        "europe-west4": (4.2525, 1.3485),
        "us-central1": (4.20, 0.8357),
        "us-east1": (4.20, 0.8357),
        "us-east5": (4.20, 1.68),
        "us-south1": (4.779, 1.3161),
    },
    "v6e": {
        "asia-northeast1": (3.24, 0.9435),
        "asia-south1": (3.24, 2.27),
        "asia-southeast1": (2.97, 0.3629),
        "europe-west4": (2.97, 1.0375),
        "southamerica-west1": (2.70, None),
        "us-central1": (2.70, 0.5442),
        "us-east1": (2.70, 0.5442),
        "us-east4": (2.70, 0.5777),
        "us-east5": (2.70, 1.215),
        "us-south1": (2.70, 1.35),
        "us-west1": (2.70, 0.5442),
    },
}

_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = (
    *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4"),
    *("4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16"),
)


@dataclasses.dataclass(frozen=True)
class Generation:
    """A kind of TPU chip.

    Attributes:
      accelerator: as accelerator types begin, of which a number follows.
      per_chip: what that number counts of each chip: 2 where it counts cores.
      runtime: the software of a TPU VM, https://cloud.google.com/tpu/docs/runtimes.
    """

    name: str
    accelerator: str
    per_chip: int
    runtime: str
    shapes: tuple[str, ...]


GENERATIONS = (
    Generation("v4", "v4", 2, "tpu-ubuntu2204-base", _CUBES),
    Generation("v5e", "v5litepod", 1, "v2-alpha-tpuv5-lite", _FLAT),
    Generation("v5p", "v5p", 2, "v2-alpha-tpuv5", _CUBES),
    Generation("v6e", "v6e", 1, "v2-alpha-tpuv6e", _FLAT),
)


@dataclasses.dataclass(frozen=True)
class Slice:
    """One slice: a grid of chips of a generation, such as v5e:4x4."""

    generation: Generation
    shape: str

    @property
    def name(self) -> str:
        """As configs/plan.py takes it."""
        return f"{self.generation.name}:{self.shape}"

    @property
    def chips(self) -> int:
        return math.prod(int(size) for size in self.shape.split("x"))

    @property
    def accelerator_type(self) -> str:
        """As gcloud takes it: v5litepod-16."""
        return f"{self.generation.accelerator}-{self.chips * self.generation.per_chip}"

    @property
    def workers(self) -> int:
        """Its virtual machines: of four chips, but those of 2x4 are one of eight."""
        return 1 if self.chips <= 4 or self.shape == "2x4" else self.chips // 4

    def price(self, zone: str, spot: bool) -> float | None:
        """Dollars an hour of the whole slice; None where PRICES has no entry."""
        region = zone if zone.count("-") < 2 else zone.rpartition("-")[0]
        of_region = PRICES[self.generation.name].get(region)
        chip_hour = of_region[1 if spot else 0] if of_region else None
        return None if chip_hour is None else chip_hour * self.chips


def slices() -> list[Slice]:
    """Every standard slice."""
    return [Slice(g, shape) for g in GENERATIONS for shape in g.shapes]


def find(name: str) -> Slice:
    """The slice of a name: v5e:4x4, its accelerator type v5litepod-16, or v5e-16.

    Raises:
      WrongInput: there is no standard slice of this name.
    """
    wanted = re.sub(r"^v5e-", "v5litepod-", name.lower())
    for known in slices():
        if wanted in (known.name, known.accelerator_type):
            return known
    generation = re.split("[:-]", name.lower())[0].replace("v5litepod", "v5e")
    names = [s for s in slices() if s.generation.name == generation]
    listed = ", ".join(f"{s.name} ({s.accelerator_type})" for s in names)
    raise WrongInput(
        f"--slice={name} is no standard TPU slice; "
        + (f"of {generation} there are {listed}." if names else "use, say, v5e:4x4.")
    )


def dollars(chosen: Slice, num_slices: int, zone: str, spot: bool) -> str:
    """What slices cost, as a sentence with its source."""
    kind = "spot" if spot else "on demand"
    price = chosen.price(zone, spot)
    if price is None:
        return (
            f"The {kind} price of {chosen.generation.name} in {zone} is not in the table "
            f"of {PRICES_READ}; see https://cloud.google.com/tpu/pricing."
        )
    return (
        f"About ${price * num_slices:.2f} an hour {kind} in {zone} (prices read "
        f"{PRICES_READ}{'; spot prices change' if spot else ''})."
    )
