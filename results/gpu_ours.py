# SPDX-License-Identifier: Apache-2.0
"""Our side of results/gpu_speed.py: the step that the plan compiles, run and measured."""

import concurrent.futures
import dataclasses
import time
from typing import Any

import gpu_cases
import gpu_weights
import numpy as np


def parameters(case: gpu_cases.Case, dtype: str) -> Any:
    """The case's weights in a dtype, on the mesh that is set."""
    import jax
    import jax.numpy as jnp

    from jax_surgery.models import decoder, sharding

    config = case.config
    sizes = gpu_weights.deviations(config)

    def of(path, leaf):
        keys = [key.key for key in path]
        if keys[-1] == "scale":
            return jnp.ones(leaf.shape, dtype)
        name = "embedding" if keys[0] == "embedder" else keys[-2]
        layers = leaf.shape[0] if keys[0] == "layers" else 0
        shape = leaf.shape[1:] if layers else leaf.shape
        return gpu_weights.for_jax(name, layers, shape, sizes[name], dtype)

    shapes = decoder.abstract_params(config)
    return sharding.place(jax.tree_util.tree_map_with_path(of, shapes))


def factors(case: gpu_cases.Case, low_rank: Any) -> Any:
    """The factors of low-rank deltas that are 0."""
    import jax
    import jax.numpy as jnp

    from jax_surgery.models import sharding
    from jax_surgery.optim import lora

    config = case.config

    def of(path, leaf):
        *_, name, which = (key.key for key in path)
        if which == "lora_b":
            return jnp.zeros(leaf.shape)
        inputs = leaf[0].size // case.rank
        arguments = (f"{name} a", leaf.shape[0], leaf.shape[1:], (3 * inputs) ** -0.5)
        return gpu_weights.for_jax(*arguments, "float32")

    shapes = jax.eval_shape(lambda: lora.init_factors(config, low_rank, 0))
    shapes = jax.tree.map(lambda s: np.broadcast_to(np.float32(0), s.shape), shapes)
    return sharding.place(jax.tree_util.tree_map_with_path(of, shapes))


@dataclasses.dataclass
class Program:
    """A compiled step.

    Attributes:
      planned: bytes of the device by purpose and in all, as the plan states them.
      seconds: that its compilation took.
    """

    compiled: Any
    planned: dict[str, int]
    seconds: float


def compiled(case: gpu_cases.Case, ours: gpu_cases.Ours, mesh: Any) -> Program:
    """The plan's program of a step, compiled for the device that is here."""
    import jax

    from jax_surgery.plan import programs
    from jax_surgery.plan.compiled.memory import Memory
    from jax_surgery.plan.settings import PlanSettings

    began = time.perf_counter()
    settings = PlanSettings(
        *("plan", "step", case.name, "", 1, 0, True, "no", case.settings(ours))
    )
    with jax.set_mesh(mesh):
        call = programs.step(settings, case.config)
        program = call.function.lower(*call.arguments).compile()
    found = program.memory_analysis()
    added = found.temp_size_in_bytes + found.output_size_in_bytes
    memory = Memory(found.argument_size_in_bytes, added - found.alias_size_in_bytes)
    return Program(program, call.memory(memory), time.perf_counter() - began)


class Runner:
    """The state, the batches and the compiled steps of a case."""

    def __init__(self, case: gpu_cases.Case, batches: list[Any], mesh: Any):
        """Makes the weights; the mesh is set."""
        self.case, self.mesh = case, mesh
        self.done, self.state = 0, None  # steps taken
        self.rows = gpu_cases.role_rows(case)
        self.programs: dict[gpu_cases.Ours, Program] = {}
        self.placed = [batch.place(self.rows.total) for batch in batches]
        self._whole: Any = None  # the reference
        self._prepare()

    def _prepare(self) -> None:
        import jax

        from jax_surgery.models import decoder, output_head
        from jax_surgery.parallel import mesh as meshes

        config = self.case.config
        compute = self.case.settings(self.case.ours[0]).compute
        reference = parameters(self.case, "bfloat16")
        read = jax.jit(
            lambda p, b: decoder.forward_packed(p, config, b, compute=compute)
        )
        self.cached = []
        for batch in self.placed:
            retained = batch.text.take(self.rows, "retain")
            states = np.asarray(read(reference, retained))
            states = meshes.place_rows(states, self.rows.retain)
            self.cached.append(batch.replace(reference_hidden_RTD=states))
        self.head = output_head.parameters(reference)
        if self.case.rank:
            self.head = self._whole = reference

    def begin(self) -> None:
        """The state before the first step."""
        from jax_surgery.models import sharding
        from jax_surgery.optim.optimizer import make_optimizer
        from jax_surgery.train.step import init_state

        self.done, self.state = 0, None
        settings = self.case.settings(self.case.ours[0])
        optimizer = make_optimizer(
            settings.optimizer, settings.steps, settings.trainable(self.case.config)
        )
        if self.case.rank:
            params = factors(self.case, settings.lora)
        else:
            params = parameters(self.case, "float32")
        self.state = sharding.place(init_state(params, optimizer))

    def compile(self, choices: list[gpu_cases.Ours]) -> None:
        """Compiles the steps that are not compiled yet, at once."""
        missing = [c for c in dict.fromkeys(choices) if c not in self.programs]
        with concurrent.futures.ThreadPoolExecutor() as pool:
            jobs = {
                choice: pool.submit(compiled, self.case, choice, self.mesh)
                for choice in missing
            }
        self.programs |= {choice: job.result() for choice, job in jobs.items()}

    def run(self, choice: gpu_cases.Ours, steps: int, anew: bool) -> dict[str, Any]:
        """Takes steps: their seconds and metrics, and the memory so far.

        Args:
          anew: whether they begin with the weights as they were made.
        """
        import jax

        if anew or self.state is None:
            self.begin()
        self.compile([choice])
        program = self.programs[choice]
        batches, frozen = self.cached, self.head
        if choice.reference == "live":
            if self._whole is None:
                self._whole = parameters(self.case, "bfloat16")
            batches, frozen = self.placed, self._whole
        jax.block_until_ready(self.state)
        began, found = time.perf_counter(), []
        for _ in range(steps):
            batch = batches[self.done % len(batches)]
            self.state, metrics = program.compiled(self.state, batch, frozen)
            found.append(metrics)
            self.done += 1
        jax.block_until_ready(self.state)
        seconds = time.perf_counter() - began
        stats = jax.local_devices()[0].memory_stats() or {}
        names = ("unlearn_ce", "update_ce", "retain_kl")
        return {
            "seconds": seconds,
            "terms": [[float(m[name]) for name in names] for m in found],
            "peak": stats.get("peak_bytes_in_use", 0),
            "planned": program.planned,
            "compile": program.seconds,
        }


def serve(connection: Any, case: gpu_cases.Case, batches: list[Any]) -> None:
    """Answers (choice, steps, anew) with `Runner.run`, a list of choices, which it compiles,
    with nothing, and None, which ends it, with the device's name."""
    import jax

    from jax_surgery.parallel.mesh import MeshShape
    from jax_surgery.train import devices

    with devices.on_mesh(MeshShape()) as mesh:
        runner = Runner(case, batches, mesh)
        while (message := connection.recv()) is not None:
            try:
                if isinstance(message, list):
                    connection.send(runner.compile(message))
                else:
                    connection.send(runner.run(*message))
            except Exception as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                runner.state = None  # it was donated
                connection.send({"failed": "out of memory"})
    connection.send(jax.local_devices()[0].device_kind)
