# SPDX-License-Identifier: Apache-2.0
"""Peak host memory of loading, one step and exporting, on eight simulated devices.

    python results/load_save.py

writes a random Llama of 2 billion parameters (bfloat16, safetensors in files of 1 GB),
and in a fresh process loads it over fsdp 8, exports it untouched, takes one training
step (SGD; all three roles; the frozen model's hidden states are in the batch, as with
`reference="cached"`), exports again and loads that. Every byte of the untouched export
must be the checkpoint's. It prints and writes results/load_save.md; about 10 minutes
and 12 GiB of memory on two CPU cores, and 12 GB of disk in --folder.

What is measured is the process' largest resident memory (VmHWM, reset before each
phase): parameters, since a simulated device's memory is the host's, and also Python,
JAX, compiled programs and the compiler. The kernel's page cache is not in it; files are
read and written, not mapped. What is needed comes from shapes alone (`needs`).
"""

import argparse
import contextlib
import gc
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import tempfile
import time

DEVICES = 8
CONTEXT = 32  # tokens a row
GIB = 2**30
MARGIN = 2.0  # GiB that a phase may take beside what it needs
HERE = pathlib.Path(__file__).parent
# XLA on CPU computes bfloat16 in float32. Left alone, it first converts whole stacks
# of weights (outside the loop over layers), and it fails on sums of bfloat16 over
# devices ("Invalid binary instruction opcode copy").
XLA_FLAGS = (
    f"--xla_force_host_platform_device_count={DEVICES}",
    "--xla_disable_hlo_passes=all-reduce-promotion,while-loop-invariant-code-motion",
)


def model_config(arguments: argparse.Namespace):
    """The architecture: heads of 128 or fewer, half as many key-value heads."""
    from jax_surgery.models.config import ModelConfig

    width = arguments.width
    head = min(128, width // 8)
    return ModelConfig(
        vocab_size=arguments.vocabulary,
        hidden_size=width,
        intermediate_size=4 * width,
        num_layers=arguments.layers,
        num_heads=width // head,
        num_kv_heads=width // head // 2,
        head_dim=head,
        bos_token_id=0,
        eos_token_id=1,
    )


def write_checkpoint(folder: pathlib.Path, config, file_bytes: int = 10**9) -> None:
    """A random checkpoint in bfloat16, one tensor in memory at a time."""
    import ml_dtypes
    import numpy as np
    from etils import epath

    from jax_surgery.checkpoints import hf_index, hf_layout, safetensors_file
    from jax_surgery.models.architectures import to_hf

    rng, dtype = np.random.default_rng(0), np.dtype(ml_dtypes.bfloat16)

    def random(tensor):
        if tensor.path[-1] == "scale":
            return np.ones(tensor.file_shape, dtype)
        values = rng.standard_normal(tensor.file_shape, np.float32)
        return (values * 0.02).astype(dtype)

    tensors = hf_layout.tensors(config)
    folder.mkdir(parents=True, exist_ok=True)
    weight_map = {}
    nbytes = lambda tensor: tensor.size * dtype.itemsize
    for file, group in hf_layout.files(tensors, nbytes, file_bytes).items():
        held = {tensor.name: (tensor.file_shape, dtype) for tensor in group}
        path = epath.Path(folder / file)
        safetensors_file.write(path, held, map(random, group))
        weight_map |= dict.fromkeys(held, file)
    (folder / "config.json").write_text(json.dumps(to_hf(config)))
    (folder / hf_index.INDEX).write_text(json.dumps({"weight_map": weight_map}))


def compare(first: pathlib.Path, second: pathlib.Path) -> int:
    """How many tensors two checkpoints hold; both must hold the same bytes."""
    from etils import epath

    from jax_surgery.checkpoints import hf_index, safetensors_file

    one, two = (hf_index.entries_of(epath.Path(path)) for path in (first, second))
    assert set(one) == set(two)
    for name, entry in one.items():
        pair = [
            safetensors_file.read_rows(e, 0, e.shape[0]) for e in (entry, two[name])
        ]
        assert pair[0].tobytes() == pair[1].tobytes(), name
    return len(one)


def status(field: str) -> float:
    """A memory field of this process, GiB."""
    text = pathlib.Path("/proc/self/status").read_text()
    line = next(line for line in text.splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024 / GIB


def needs(config) -> dict[str, float]:
    """GiB that each phase must hold, from shapes.

    Loading and exporting: the parameters. A step: parameters and gradients; on every
    device at once a layer's gathered weights and their gradients (bfloat16), and one
    matrix of it and its gradient in float32, as a CPU multiplies; copies of the heads
    of model and frozen model, and the float32 sum of the head's gradient. Activations
    are small here and left out.
    """
    import jax

    from jax_surgery.models import decoder, output_head

    params = decoder.abstract_params(config, "bfloat16")

    def size(tree) -> float:
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)) / GIB

    layer = size(params["layers"]) / config.num_layers
    matrix = config.hidden_size * config.intermediate_size * 4 / GIB
    head = size(output_head.parameters(params))
    on_each = 2 * layer + 2 * matrix + (2 + 2) * head  # two in bfloat16, one in float32
    step = 2 * size(params) + head + DEVICES * on_each
    return {"parameters": size(params), "step": step}


class Phases:
    """Measures phases of this process."""

    def __init__(self):
        self.rows: list[dict] = []

    @contextlib.contextmanager
    def __call__(self, name: str, need: float):
        """Measures what is inside, which must hold `need` GiB."""
        gc.collect()
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        began = time.perf_counter()
        yield
        seconds = time.perf_counter() - began
        row = {"phase": name, "need": need, "peak": status("VmHWM"), "seconds": seconds}
        self.rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)


def random_batch(config, rows: int):
    """Random rows on the mesh, each one document."""
    import numpy as np

    from jax_surgery.data.batch import Batch

    rng, shape = np.random.default_rng(1), (rows, CONTEXT)
    batch = Batch(
        tokens_BT=rng.integers(0, config.vocab_size, shape, np.int32),
        segment_ids_BT=np.ones(shape, np.int32),
        positions_BT=np.broadcast_to(np.arange(CONTEXT, dtype=np.int32), shape),
        weights_BT=np.ones(shape, np.float32),
    )
    return batch.place(rows)


def one_step(params, config):
    """The parameters after a step of all three roles, donated; and its metrics."""
    import jax
    import jax.numpy as jnp
    import optax

    from configs import paper_formula
    from jax_surgery.models import decoder, output_head
    from jax_surgery.runs import settings
    from jax_surgery.train import devices
    from jax_surgery.train.step import init_state, make_train_step

    rows = devices.role_rows(dict.fromkeys(("unlearn", "update", "retain"), DEVICES))
    batch = random_batch(config, rows.total)
    compute = decoder.Compute("bfloat16", "full", unroll=1, attention="auto")
    retain = batch.text.take(rows, "retain")
    frozen = jax.jit(
        lambda params, rows: decoder.forward_packed(
            params, config, rows, compute=compute
        )
    )
    batch = batch.replace(reference_hidden_RTD=frozen(params, retain))
    reference = jax.tree.map(jnp.copy, output_head.parameters(params))
    optimizer = optax.sgd(0.1)
    loss = settings.from_config(paper_formula.get_config()).loss
    step = make_train_step(config, loss, rows, optimizer, compute=compute)
    state, metrics = step(init_state(params, optimizer), batch, reference)
    return state.params, {name: float(value) for name, value in metrics.items()}


def first_values(params) -> list[bytes]:
    """A few values of every parameter; none is gathered for them."""
    import jax

    return [
        jax.device_get(x[(0,) * (x.ndim - 1)][:8]).tobytes()
        for x in jax.tree.leaves(params)
    ]


def measure(folder: pathlib.Path, config) -> dict:
    """All phases in this process, on a mesh over its devices."""
    import jax

    from jax_surgery.checkpoints import hf_weights
    from jax_surgery.parallel.mesh import MeshShape
    from jax_surgery.train import devices

    phase, need = Phases(), needs(config)
    size = need["parameters"]

    def load(name):
        params, _ = hf_weights.load_model(str(folder / name), "bfloat16")
        return jax.block_until_ready(params)

    def save(params, name):
        path = str(folder / name)
        hf_weights.save_model(params, config, path, max_shard_bytes=1e9)

    with devices.on_mesh(MeshShape()):
        with phase("start", 0.0):
            jax.block_until_ready(jax.numpy.zeros(1))
        with phase("load", size):
            params = load("checkpoint")
        held = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(params))
        with phase("export, untouched", size):
            save(params, "untouched")
        with phase("step", need["step"]):
            params, metrics = one_step(params, config)
        with phase("export, after the step", size):
            save(params, "stepped")
        before = first_values(params)
        del params
        with phase("load the export", size):
            params = load("stepped")
        assert before == first_values(params)
    return {"phases": phase.rows, "metrics": metrics, "share": held / GIB}


def run(arguments: argparse.Namespace, folder: pathlib.Path) -> dict:
    """Writes the checkpoint, measures in a fresh process, compares the export."""
    config = model_config(arguments)
    began = time.perf_counter()
    write_checkpoint(folder / "checkpoint", config)
    written = time.perf_counter() - began
    flags = [os.environ.get("XLA_FLAGS", ""), *XLA_FLAGS]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": " ".join(flags),
        "PYTHONPATH": str(HERE.parent),
    }
    command = [sys.executable, *sys.argv, f"--folder={folder}", "--measure"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    result["equal"] = compare(folder / "checkpoint", folder / "untouched")
    stepped, untouched = folder / "stepped", folder / "untouched"
    result["files"] = len(list(untouched.glob("*.safetensors")))
    assert len(list(stepped.glob("*.safetensors"))) == result["files"]
    return result | {"written": written}


def page(arguments: argparse.Namespace, result: dict) -> str:
    """The Markdown page of a measurement."""
    import jax

    from jax_surgery.models import decoder

    config = model_config(arguments)
    count = decoder.parameter_count(config)
    lines = [
        "# Host memory of loading, a step, and exporting",
        "",
        (
            f"A random Llama of {count / 1e9:.2f} billion parameters ({arguments.layers} "
            f"layers of width {arguments.width}, vocabulary {arguments.vocabulary}) in "
            f"bfloat16, over fsdp {DEVICES} on as many simulated CPU devices, whose memory "
            "is the host's. Peak: the process' largest resident memory in the phase, with "
            "Python, JAX, compiled programs and the compiler. Need: from shapes alone "
            "(`needs` in load_save.py)."
        ),
        "",
        "| phase | need GiB | peak GiB | peak - need | seconds |",
        "|---|---|---|---|---|",
    ]
    for row in result["phases"]:
        lines.append(
            f"| {row['phase']} | {row['need']:.2f} | {row['peak']:.2f} | "
            f"{row['peak'] - row['need']:.2f} | {row['seconds']:.1f} |"
        )
    metrics = ", ".join(f"{k} {v:.3g}" for k, v in result["metrics"].items())
    lines += [
        "",
        (
            f"A device holds {result['share']:.3f} GiB of the parameters. The untouched "
            f"export ({result['files']} files) equals the checkpoint bit for bit in all "
            f"{result['equal']} tensors. The step: {metrics}."
        ),
        "",
        (
            f"Command: `python {shlex.join(['results/load_save.py', *sys.argv[1:]])}`; "
            f"{os.cpu_count()} CPU cores, {platform.platform()}, Python "
            f"{platform.python_version()}, jax {jax.__version__}; XLA_FLAGS "
            f"`{' '.join(XLA_FLAGS)}`."
        ),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=31)
    parser.add_argument("--vocabulary", type=int, default=16384)
    parser.add_argument("--folder", help="for 12 GB of files; default: a temporary one")
    parser.add_argument("--out", default=str(HERE / "load_save.md"))
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        folder = pathlib.Path(arguments.folder)
        print(json.dumps(measure(folder, model_config(arguments))))
        return
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or stack.enter_context(tempfile.TemporaryDirectory())
        result = run(arguments, pathlib.Path(folder))
    text = page(arguments, result)
    print(text)
    pathlib.Path(arguments.out).write_text(text)
    for row in result["phases"]:
        assert row["peak"] - row["need"] <= MARGIN, row


if __name__ == "__main__":
    main()
