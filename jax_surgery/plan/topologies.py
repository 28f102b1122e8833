# SPDX-License-Identifier: Apache-2.0
"""TPU slices by name, and their devices on a machine that has no TPU.

A name is a generation and a grid of chips: "v5e:4x4", "v4:2x2x2". libtpu compiles for
such a slice anywhere (`devices`); nothing can be run on what it returns.
"""

import dataclasses
import difflib
import functools
import importlib.util
import math
import os
import re
from typing import Any

import jax
from jax.experimental import topologies

GIB = 2**30
INSTALL = "pip install '.[plan]'"

# libtpu reads these once, when it is first used: it must not look for a TPU, for its
# metadata server, or for the lock of another process, and writes no log files. The
# last two name a host that is not used; without them libtpu warns that it found none.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LOG_DIR": "disabled",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}

_FLAT = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_CUBES = (
    *((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), (4, 4, 4)),
    *((4, 4, 8), (4, 8, 8), (8, 8, 8), (8, 8, 16), (8, 16, 16)),
)


@dataclasses.dataclass(frozen=True)
class Generation:
    """A kind of TPU chip.

    Attributes:
      peak_flops: bfloat16 FLOP/s of a chip, as published.
      hbm_bytes: of a chip that a program may use, as the compiler of libtpu 0.0.51
        states it when a program needs more (it rounds to 0.01 GiB).
      clock_hz: cycles a second, to turn the compiler's cycles into time.
      clock_is_certain: at these clocks the compiler's cycles of an 8192^3 bfloat16
        product are 88 to 93 % of peak_flops. Where the clock is not published (v6e)
        the same product is at 70 %: seconds may then be wrong by 30 %.
      shapes: the standard slices, smallest first.
      options: of `get_topology_desc`; a v4 chip's two cores are one device only so.
    """

    name: str
    peak_flops: float
    hbm_bytes: float
    clock_hz: float
    shapes: tuple[tuple[int, ...], ...]
    clock_is_certain: bool = True
    options: tuple[tuple[str, Any], ...] = ()


_V4 = (("chip_config_name", "megacore"), ("chips_per_host_bounds", (2, 2, 1)))
GENERATIONS = {
    generation.name: generation
    for generation in (
        Generation("v4", 275e12, 30.75 * GIB, 1.05e9, _CUBES, options=_V4),
        Generation("v5e", 197e12, 15.75 * GIB, 1.5e9, _FLAT),
        Generation("v5p", 459e12, 95.73 * GIB, 1.75e9, _CUBES),
        Generation("v6e", 918e12, 31.24 * GIB, 1.75e9, _FLAT, clock_is_certain=False),
    )
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """`num_slices` equal slices, joined by the data centre's network when several."""

    generation: Generation
    shape: tuple[int, ...]
    num_slices: int = 1

    @property
    def name(self) -> str:
        return f"{self.generation.name}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        """Chips of all slices."""
        return math.prod(self.shape) * self.num_slices

    @property
    def peak_flops(self) -> float:
        """bfloat16 FLOP/s of all chips."""
        return self.chips * self.generation.peak_flops

    @property
    def hbm_bytes(self) -> float:
        """Memory of one chip that a program may use."""
        return self.generation.hbm_bytes

    @property
    def wrap(self) -> tuple[bool, bool, bool]:
        """Along which axes the last chip is linked to the first.

        A flat slice's axis of 16 is a ring; a cube's axes are when it is made of whole
        racks of 4x4x4. Where the compiler is not told so, it gathers a cube's weights
        by all-reduces.
        """
        if len(self.shape) == 2:
            x, y = self.shape
            return (x == 16, y == 16, False)
        return (all(size % 4 == 0 for size in self.shape),) * 3

    def seconds(self, cycles: float) -> float:
        """Time of cycles; see `Generation.clock_is_certain`."""
        return cycles / self.generation.clock_hz

    def _neighbour(self, step: int) -> "Slice | None":
        shapes = self.generation.shapes
        position = shapes.index(self.shape) + step
        if not 0 <= position < len(shapes):
            return None
        return dataclasses.replace(self, shape=shapes[position])

    def smaller(self) -> "Slice | None":
        """The next standard slice of this generation with fewer chips."""
        return self._neighbour(-1)

    def larger(self) -> "Slice | None":
        """The next standard slice of this generation with more chips."""
        return self._neighbour(1)


def slices() -> list[Slice]:
    """Every standard slice, by generation, smallest first."""
    return [Slice(g, shape) for g in GENERATIONS.values() for shape in g.shapes]


def _nearest(name: str) -> list[str]:
    """Standard names near an unknown one, by chips where it gives a number of them."""
    match = re.fullmatch(
        r"(v\d[a-z]*?)[-:]?(\d+(?:x\d+)*)", name.lower().replace("litepod", "e")
    )
    if not match or match[1] not in GENERATIONS:
        return difflib.get_close_matches(name, [s.name for s in slices()], n=3)
    generation, sizes = match[1], match[2].split("x")
    chips = math.prod(map(int, sizes))
    if len(sizes) == 1 and generation in ("v4", "v5p"):
        chips //= 2  # these are sold by the core, two per chip
    of_generation = [s for s in slices() if s.generation.name == generation]
    return [min(of_generation, key=lambda s: abs(s.chips - chips)).name]


def find(name: str, num_slices: int = 1) -> Slice:
    """The slice of a name.

    Raises:
      ValueError: no standard slice has this name (libtpu itself accepts shapes that
        do not exist, such as v5e:32x32), or num_slices is below 1.
    """
    if num_slices < 1:
        raise ValueError(f"num_slices is {num_slices}; there must be at least 1.")
    for known in slices():
        if known.name == name:
            return dataclasses.replace(known, num_slices=num_slices)
    shapes = {
        g.name: ", ".join("x".join(map(str, shape)) for shape in g.shapes)
        for g in GENERATIONS.values()
    }
    near = " or ".join(_nearest(name))
    raise ValueError(
        f"topology {name!r} is no standard TPU slice"
        f"{'; did you mean ' + near + '?' if near else '.'} "
        f"Known: {'; '.join(f'{g}: {list_}' for g, list_ in shapes.items())}."
    )


def prepare() -> None:
    """Makes this process one that compiles for TPUs; before anything is compiled.

    Raises:
      RuntimeError: libtpu is not installed.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise RuntimeError(
            f"Compiling for a TPU needs libtpu, which is not installed: {INSTALL}"
        )
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not jax.config.values["jax_platforms"]:  # else a missing TPU is looked for
        jax.config.update("jax_platforms", "cpu")
    # Programs for a chip that is not here can be stored, and not be read again.
    jax.config.update("jax_enable_compilation_cache", False)


@functools.cache
def _describe(where: Slice) -> tuple[Any, ...]:
    prepare()
    several = {} if where.num_slices == 1 else {"num_slices": where.num_slices}
    found = topologies.get_topology_desc(
        platform="tpu",
        topology_name=where.name,
        wrap=where.wrap,
        **several,
        **dict(where.generation.options),
    ).devices
    if len(found) != where.chips:
        raise RuntimeError(
            f"libtpu describes {where.name} x {where.num_slices} as {len(found)} "
            f"devices; one per chip, {where.chips}, is what this program divides work by."
        )
    return tuple(found)


def devices(name: str, num_slices: int = 1) -> list[Any]:
    """The devices of a slice, to compile for; one per chip, whatever its cores.

    Args:
      name: such as "v5e:4x4".
      num_slices: how many such slices, joined by the data centre's network; the
        devices of the first come first, and each has its `slice_index`.

    Raises:
      ValueError: see `find`.
      RuntimeError: libtpu is not installed.
    """
    return list(_describe(find(name, num_slices)))
