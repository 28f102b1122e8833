# SPDX-License-Identifier: Apache-2.0
"""Checks of weights on several devices; `test_sharded_weights` runs them elsewhere.

    python tests/weights_on_devices.py FOLDER [ADDRESS PROCESSES PROCESS]

with eight devices in all (XLA_FLAGS) prints a JSON object: each check's name, and its
traceback ("" where it passed). The expected parameters are put together here, in NumPy.
"""

import argparse
import dataclasses
import itertools
import json
import pathlib
import sys
import traceback

import jax
import ml_dtypes
import numpy as np
from etils import epath
from safetensors.numpy import load_file, save_file

from jax_surgery.checkpoints import hf_layout, hf_weights, safetensors_file
from jax_surgery.models import decoder
from jax_surgery.models import sharding as placement
from jax_surgery.models.architectures import to_hf
from jax_surgery.models.config import ModelConfig
from jax_surgery.parallel import distributed
from jax_surgery.parallel import mesh as meshes

GQA = ModelConfig(
    vocab_size=48,
    hidden_size=32,
    intermediate_size=40,
    num_layers=3,
    num_heads=8,
    num_kv_heads=2,
    head_dim=6,
    bos_token_id=0,
    eos_token_id=1,
)
CONFIGS = {"gqa": GQA, "tied": dataclasses.replace(GQA, tie_embeddings=True)}
MESHES = {
    "fsdp8": (1, 8, 1),
    "fsdp4 tp2": (1, 4, 2),
    "data2 fsdp4": (2, 4, 1),
    "data2 fsdp2 tp2": (2, 2, 2),
}


def layout(*sizes):
    """A mesh of data, fsdp and tp devices."""
    return meshes.make_mesh(meshes.MeshShape(*sizes))


def load(folder, mesh, dtype=None):
    """A checkpoint on a mesh, and where its parameters lie by the layout table."""
    with jax.set_mesh(mesh):
        params, config = hf_weights.load_model(str(folder), dtype)
    shardings = placement.shardings(decoder.abstract_params(config), mesh)
    return params, config, shardings


def file_tensors(config, dtype=ml_dtypes.bfloat16):
    """Random tensors by Hugging Face's names: any bits, except that none is NaN."""
    rng = np.random.default_rng(0)
    c, dtype = config, np.dtype(dtype)

    def random(shape):
        bits = rng.bytes(int(np.prod(shape)) * dtype.itemsize)
        values = np.frombuffer(bits, dtype).reshape(shape)
        with np.errstate(invalid="ignore"):
            return np.where(np.isnan(values), dtype.type(1), values)

    heads, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    d, f = c.hidden_size, c.intermediate_size
    shapes = {"model.embed_tokens.weight": (c.vocab_size, d), "model.norm.weight": (d,)}
    if not c.tie_embeddings:
        shapes["lm_head.weight"] = (c.vocab_size, d)
    for layer in range(c.num_layers):
        for name, shape in {
            "input_layernorm": (d,),
            "self_attn.q_proj": (heads, d),
            "self_attn.k_proj": (kv, d),
            "self_attn.v_proj": (kv, d),
            "self_attn.o_proj": (d, heads),
            "post_attention_layernorm": (d,),
            "mlp.gate_proj": (f, d),
            "mlp.up_proj": (f, d),
            "mlp.down_proj": (d, f),
        }.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    return {name: random(shape) for name, shape in shapes.items()}


def write(folder, config, tensors, files=3):
    """A checkpoint that the safetensors library wrote, in several files."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(to_hf(config)))
    weight_map = {}
    for number in range(files):
        part = dict(list(tensors.items())[number::files])
        save_file(part, folder / f"part{number}.safetensors")
        weight_map |= dict.fromkeys(part, f"part{number}.safetensors")
    index = json.dumps({"weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(index)


def expected(config, tensors):
    """The parameters that a checkpoint's tensors are."""
    c, d = config, config.hidden_size

    def stack(name, turn):
        name = "model.layers.{}." + name + ".weight"
        return np.stack([turn(tensors[name.format(i)]) for i in range(c.num_layers)])

    def kernel(name, *shape):
        return {"kernel": stack(name, lambda w: w.T.reshape(shape))}

    def scale(name):
        return {"scale": stack(name, lambda w: w)}

    q = (d, c.num_heads, c.head_dim)
    kv = (d, c.num_kv_heads, c.head_dim)
    f = c.intermediate_size
    params = {
        "embedder": {"embedding": tensors["model.embed_tokens.weight"]},
        "final_norm": {"scale": tensors["model.norm.weight"]},
        "layers": {
            "attention_norm": scale("input_layernorm"),
            "mlp_norm": scale("post_attention_layernorm"),
            "attention": {
                "q": kernel("self_attn.q_proj", *q),
                "k": kernel("self_attn.k_proj", *kv),
                "v": kernel("self_attn.v_proj", *kv),
                "o": kernel("self_attn.o_proj", *q[1:], d),
            },
            "mlp": {
                "gate": kernel("mlp.gate_proj", d, f),
                "up": kernel("mlp.up_proj", d, f),
                "down": kernel("mlp.down_proj", f, d),
            },
        },
    }
    if not c.tie_embeddings:
        params["head"] = {"kernel": tensors["lm_head.weight"].T}
    return params


def assert_held(params, wanted, shardings):
    """Every device here holds its slice of every parameter, bit for bit."""
    assert jax.tree.structure(params) == jax.tree.structure(wanted)
    for array, whole, sharding in zip(
        *map(jax.tree.leaves, (params, wanted, shardings)), strict=True
    ):
        assert (array.shape, array.dtype) == (whole.shape, whole.dtype)
        assert array.sharding.is_equivalent_to(sharding, whole.ndim)
        for shard in array.addressable_shards:
            assert shard.data.shape == sharding.shard_shape(whole.shape)
            assert np.asarray(shard.data).tobytes() == whole[shard.index].tobytes()


def assert_exported(folder, tensors, limit):
    """A directory holds these tensors, bit for bit, in files of that size at most."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    names = set(index["weight_map"].values())
    assert len(names) > 2
    assert names == {file.name for file in folder.glob("*.safetensors")}
    assert set(index["weight_map"]) == set(tensors)
    files = {name: load_file(folder / name) for name in names}
    for file in files.values():
        assert sum(tensor.nbytes for tensor in file.values()) <= limit
    for name, tensor in tensors.items():
        written = files[index["weight_map"][name]][name]
        assert (written.dtype, written.shape) == (tensor.dtype, tensor.shape)
        assert written.tobytes() == tensor.tobytes()


def check_slices_and_export(folder):
    """Each device holds its slice and no more, on every mesh; written, it is as it
    was, in files of a bounded size."""
    for name, config in CONFIGS.items():
        tensors = file_tensors(config)
        write(folder / name, config, tensors)
        for mesh, sizes in MESHES.items():
            params, read, places = load(folder / name, layout(*sizes))
            assert read == config
            assert_held(params, expected(config, tensors), places)
            out = folder / f"{name} {mesh}"
            hf_weights.save_model(params, config, str(out), max_shard_bytes=20_000)
            assert_exported(out, tensors, 20_000)


def check_without_a_mesh(folder):
    """One device loads the same parameters."""
    for name, config in CONFIGS.items():
        tensors = file_tensors(config)
        write(folder / name, config, tensors)
        params, _ = hf_weights.load_model(str(folder / name), None)
        wanted = jax.tree.leaves(expected(config, tensors))
        for array, whole in zip(jax.tree.leaves(params), wanted, strict=True):
            assert array.devices() == {jax.devices()[0]}
            assert np.asarray(array).tobytes() == whole.tobytes()


def check_dtypes(folder):
    """float32 is rounded to bfloat16 as NumPy does it, and bfloat16 widened exactly."""
    sizes = MESHES["fsdp4 tp2"]
    rng = np.random.default_rng(1)
    for kind, dtype in (("float32", "bfloat16"), ("bfloat16", "float32")):
        # Numbers of every size that float16 holds, and smaller ones than any.
        tensors = {
            name: (rng.normal(size=t.shape) * 2.0 ** rng.integers(-140, 12, t.shape))
            .astype(np.float32)
            .astype(kind)
            for name, t in file_tensors(GQA).items()
        }
        write(folder / kind, GQA, tensors)
        params, _, places = load(folder / kind, layout(*sizes), dtype)
        wanted = expected(GQA, {k: t.astype(dtype) for k, t in tensors.items()})
        assert_held(params, wanted, places)
        hf_weights.save_model(params, GQA, str(folder / "out"), dtype="float16")
        written = load_file(folder / "out" / "model.safetensors")
        for name, tensor in tensors.items():
            half = tensor.astype(dtype).astype(np.float16)
            assert written[name].tobytes() == half.tobytes()


def reads(folder, mesh):
    """The rows that a load reads of each tensor: {offset: [(start, stop), ...]}."""
    seen = {}
    original = safetensors_file.read_rows

    def spy(entry, start, stop):
        seen.setdefault((entry.file.name, entry.offset), []).append((start, stop))
        return original(entry, start, stop)

    safetensors_file.read_rows = spy
    try:
        load(folder, mesh)
    finally:
        safetensors_file.read_rows = original
    return seen


def check_reads(folder):
    """No row is read twice, also where several devices hold the same."""
    write(folder / "gqa", GQA, file_tensors(GQA))
    for sizes in MESHES.values():
        seen = reads(folder / "gqa", layout(*sizes))
        assert len(seen) == len(hf_layout.tensors(GQA))
        for ranges in seen.values():
            ranges = sorted(ranges)
            assert ranges[0][0] == 0
            for (_, stop), (start, _) in itertools.pairwise(ranges):
                assert stop == start


def check_errors(folder):
    """What does not fit is named before anything is read."""
    tensors = file_tensors(GQA)
    write(folder / "whole", GQA, tensors)
    try:
        load(folder / "whole", layout(1, 1, 8))
    except ValueError as error:
        message = str(error)
        assert "num_kv_heads=2 does not divide over config.mesh.tp=8" in message
        assert "nearest values that work: 1, 2" in message
    else:
        raise AssertionError("2 heads were split over 8 devices")
    del tensors["model.norm.weight"]
    write(folder / "part", GQA, tensors)
    try:
        load(folder / "part", layout(1, 8, 1))
    except ValueError as error:
        assert "missing tensors (1): model.norm.weight" in str(error)
    else:
        raise AssertionError("a checkpoint without its norm was loaded")


def check_memory(folder):
    """Loading takes the parameters and little beside them, exporting little."""
    from benchmarks import load_save

    sizes = {"width": 512, "layers": 32, "vocabulary": 4096}
    config = load_save.model_config(argparse.Namespace(**sizes))
    need = load_save.needs(config)["parameters"]
    assert need > 0.2  # GiB, more than twice what is allowed beside them
    load_save.write_checkpoint(folder / "big", config)
    phase, before = load_save.Phases(), load_save.status("VmRSS")
    mesh = layout(*MESHES["fsdp8"])
    with phase("load", need):
        params, _, _ = load(folder / "big", mesh, "bfloat16")
        jax.block_until_ready(params)
    held = load_save.status("VmRSS")
    with phase("export", 0):
        hf_weights.save_model(params, config, str(folder / "out"))
    loaded, exported = phase.rows
    assert loaded["peak"] - before - need < 0.1, (before, phase.rows)
    assert exported["peak"] - held < 0.1, (held, phase.rows)
    load_save.compare(folder / "big", folder / "out")


def check_two_processes(folder):
    """Each process reads its part, and process 0 writes all of them gathered."""
    source, out = folder / "gqa", folder / "out"
    tensors = file_tensors(GQA)
    for sizes in MESHES.values():
        params, config, places = load(source, layout(*sizes))
        assert_held(params, expected(config, tensors), places)
        assert not jax.tree.leaves(params)[0].is_fully_addressable
        hf_weights.save_model(params, config, str(out), max_shard_bytes=20_000)
        # No process returns before everything is written.
        assert_exported(out, tensors, 20_000)
        distributed.wait("compared")
    # The rows of down_proj are split over fsdp: half of them are read here.
    seen = reads(source, layout(1, 8, 1))
    headers = [
        entry
        for file in sorted(source.glob("*.safetensors"))
        for name, entry in safetensors_file.read_header(epath.Path(file)).items()
        if name.endswith("down_proj.weight")
    ]
    assert len(headers) == GQA.num_layers
    for entry in headers:
        rows = sum(b - a for a, b in seen[entry.file.name, entry.offset])
        assert rows == GQA.hidden_size // 2


CHECKS = {
    "memory": check_memory,  # It runs first, because memory that others free would be used again.
    "slices_and_export": check_slices_and_export,
    "without_a_mesh": check_without_a_mesh,
    "dtypes": check_dtypes,
    "reads": check_reads,
    "errors": check_errors,
}


def main(folder, *processes):
    checks = CHECKS
    if processes:
        address, count, index = processes
        jax.distributed.initialize(address, int(count), int(index))
        checks = {"two_processes": check_two_processes}
    assert jax.device_count() == 8
    results = {}
    for name, check in checks.items():
        place = folder if processes else folder / name
        place.mkdir(exist_ok=True)
        try:
            check(place)
            results[name] = ""
        except Exception:  # noqa: BLE001 - printed for the caller
            results[name] = traceback.format_exc()
    print(json.dumps(results))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), *sys.argv[2:])
