# SPDX-License-Identifier: Apache-2.0
"""Weights from and to Hugging Face directories (safetensors).

Both ways go tensor by tensor (one matrix of one layer), so that what the host needs
beside the parameters is a few times the largest tensor, whatever the model and the
mesh. Directories are local or on gs://.
"""

import collections
import dataclasses
import hashlib
import json
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from jax_surgery.checkpoints import (
    hf_index,
    hf_layout,
    hf_tokenizer,
    hub,
    safetensors_file,
)
from jax_surgery.checkpoints.hf_layout import Tensor
from jax_surgery.models import architectures, decoder, sharding
from jax_surgery.models.compute import DEFAULT_COMPUTE, Compute
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.model import Model
from jax_surgery.parallel import distributed, progress
from jax_surgery.parallel import mesh as meshes
from jax_surgery.storage import files, space

# The names of the files of `save_model`.
EXPORTED = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?$")
# The dtype of a tensor in a file.
KindOf = Callable[[Tensor], np.dtype]


def resolve(source: str) -> epath.Path:
    """The directory of a checkpoint: itself, or a hub download.

    Raises:
      FileNotFoundError: neither a directory nor a model on the hub.
      ValueError: a gs:// path where gcsfs is not installed.
    """
    folder = epath.Path(source)
    try:
        if folder.is_dir():
            return folder
    except ImportError as error:
        raise ValueError(
            f"model directory {source!r} cannot be read: {error}. Install this package "
            "with its extra `gcs` (or gcsfs alone)."
        ) from error
    if source.startswith((".", "/", "~", "gs://")) or source.count("/") != 1:
        raise FileNotFoundError(
            f"model directory {source!r} does not exist; give a directory in Hugging "
            "Face format, a hub name such as meta-llama/Llama-2-7b-hf, or 'embedded'."
        )
    return hub.downloaded(source)


def load_config(source: str) -> ModelConfig:
    """The architecture of a checkpoint.

    Files that hold an output head of their own are not tied, whatever config.json says.

    Raises:
      FileNotFoundError: no checkpoint, or no config.json in it.
      ValueError: an architecture or a feature that is not supported.
    """
    folder = resolve(source)
    file, adapter = folder / "config.json", folder / "adapter_config.json"
    if not file.exists():
        holds = adapter.exists()
        raise FileNotFoundError(
            f"{folder} is not a checkpoint: it has no config.json."
            + " It holds an adapter; give the model that it belongs to." * holds
        )
    if adapter.exists():
        warnings.warn(
            f"{folder} holds {adapter.name} beside a model: the model is read without "
            "the adapter. Merge the two with PEFT (merge_and_unload) where both are "
            "meant.",
            stacklevel=1,
        )
    raw = hf_index.read_json(file)
    try:
        config = architectures.from_hf(raw)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    if raw["model_type"] != config.architecture:
        warnings.warn(
            f"{folder} holds a {raw['model_type']}, which sees images too: its text part "
            f"is read, and exports are of that part alone ({config.architecture}). To "
            "change the whole model, apply the run's edit file to it.",
            stacklevel=1,
        )
    if config.tie_embeddings and hf_index.has_own_head(folder):
        config = dataclasses.replace(config, tie_embeddings=False)
    return config


def hashes_of_small_files(source: str) -> dict[str, str]:
    """SHA-256 (hex) of config.json and of the tokenizer's files, by name.

    Args:
      source: directory in Hugging Face format, or hub name.
    """
    folder = resolve(source)
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("config.json", *hf_tokenizer.FILES)
        if (folder / name).exists()
    }


def save_tokenizer(tokenizer: Any, directory: str) -> None:
    """Writes a tokenizer beside a checkpoint, on the lead process.

    Args:
      directory: local or gs://, where transformers itself would write into a local
        folder of that name.
    """
    if distributed.is_lead():
        with tempfile.TemporaryDirectory() as local:
            tokenizer.save_pretrained(local)
            for file in files.children(local):
                files.copy(file, epath.Path(directory) / file.name)
    distributed.wait(f"tokenizer in {directory}")


def load_tokenizer(source: str) -> Any:
    """The checkpoint's tokenizer (`transformers`, fast).

    Raises:
      FileNotFoundError: no checkpoint, or no tokenizer in it.
      ValueError: see `hf_tokenizer.load` and `load_config`, or the tokenizer has ids
        that the model's embedding has not.
    """
    folder = resolve(source)
    tokenizer = hf_tokenizer.load(folder)
    if (folder / "config.json").exists():
        config = load_config(source)
        tokenizer = hf_tokenizer.without_placeholders(tokenizer, config)
        hf_tokenizer.check(tokenizer, config, folder)
    return tokenizer


def load_model(
    source: str, dtype: hf_index.Dtype = "float32"
) -> tuple[decoder.Params, ModelConfig]:
    """Loads a checkpoint onto the mesh that is set; onto one device without one.

    A process reads the rows (of the files' matrices) that its devices hold anything
    of, each once, and each device turns its part into our layout and writes it into
    the stacked parameter, which is made on the devices beforehand. So about two of the
    largest tensors are in host memory beside the parameters. Measured on eight CPU
    devices, this takes less than filling stacked leaves by a callback (a leaf on the
    host, and mapped files) and than Orbax's safetensors layout (all tensors, and then
    their stacks). Rows are read whole: columns alone lie on all of a file's pages.

    Args:
      source: directory in Hugging Face format (local or gs://), or hub name.
      dtype: of the parameters, or a function that gives it for a parameter's path (a
        tuple of keys); None keeps the files' own.

    Every process must call, with the same arguments.

    Returns:
      (parameters, architecture).

    Raises:
      FileNotFoundError: no such checkpoint, or shards are absent.
      ValueError: see `load_config`; weights only as .bin, missing, unused or misshapen
        tensors (all are listed), broken files, or a mesh that does not divide them.
    """
    config = load_config(source)
    tensors = hf_layout.tensors(config)
    entries = hf_index.of_model(resolve(source), tensors, config.tie_embeddings)
    dtypes = hf_index.parameter_dtypes(tensors, entries, dtype)
    mesh = jax.sharding.get_mesh()
    if not mesh.empty:
        sharding.check(decoder.abstract_params(config), meshes.sizes(mesh))
    params: decoder.Params = {}
    last = None
    sizes = {t.name: entries[t.name].nbytes for t in tensors if t.name in entries}
    size = sum(sizes.values())
    with progress.Bar(title="loading weights", unit="B", total=size) as bar:
        for tensor in tensors:
            node = params
            for key in tensor.path[:-1]:
                node = node.setdefault(key, {})
            whole, own = hf_layout.places(tensor, mesh)
            entry, key = entries.get(tensor.name), tensor.path[-1]
            part = hf_layout.read(entry, tensor, dtypes[tensor.path], own)
            # It waits, because otherwise reading runs ahead and parts pile up on the host.
            jax.block_until_ready(last)
            last = node[key] = hf_layout.insert(
                node.get(key), part, tensor, config.num_layers, whole
            )
            bar.update(sizes.get(tensor.name, 0))
    return params, config


def load(
    source: str,
    compute: Compute = DEFAULT_COMPUTE,
    dtype: hf_index.Dtype = "float32",
    tokenizer: Any = None,
    context: int = 0,
) -> Model:
    """A checkpoint as one value; errors and the other arguments as of `load_model`.

    Args:
      compute: how the model will be run.
      tokenizer: the checkpoint's where it is loaded already; None loads it.
      context: tokens of the longest row that it will be run on; warns where those are
        more than the model's positions.
    """
    tokenizer = tokenizer or load_tokenizer(source)
    hf_tokenizer.warn_of_positions(load_config(source), context, source)
    params, config = load_model(source, dtype)
    ends = hf_tokenizer.end_tokens(resolve(source))
    return Model(params, config, tokenizer, compute, source, ends)


def _exported(
    params: decoder.Params, tensors: list[Tensor], kind_of: KindOf, bar: progress.Bar
) -> Iterator[np.ndarray]:
    """The tensors as files hold them, one after another.

    All processes must iterate, because all take part in gathering a tensor.
    """
    for tensor in tensors:
        parameter = hf_layout.leaf(params, tensor.path)
        if tensor.layer is not None:
            parameter = parameter[tensor.layer]
        array = meshes.fetch(tensor.to_file(parameter))
        yield hf_layout.convert(array, kind_of(tensor), tensor.name)
        bar.update(tensor.size * kind_of(tensor).itemsize)


def _kinds(
    params: decoder.Params,
    tensors: list[Tensor],
    dtype: str | Mapping[tuple[str, ...], np.dtype] | None,
) -> KindOf:
    """The dtype of each tensor in the files; see `save_model`."""
    if isinstance(dtype, Mapping):
        return lambda tensor: dtype[tensor.path]
    own = dtype or str(jnp.result_type(*(x.dtype for x in jax.tree.leaves(params))))
    kind = hf_index.dtype_named(own)
    return lambda tensor: kind


def _make_room(folder: epath.Path, size: int) -> None:
    """Removes an earlier export, and raises `DiskFull` where the new one does not fit.

    Old files of another number would be read along with the new ones, and without its
    config.json, which is written last, nothing takes half of an export for a model.
    """
    for file in files.children(folder):
        if (
            EXPORTED.match(file.name)
            or file.name == "config.json"
            or files.PARTIAL in file.name
        ):
            files.remove(file)
    space.check(folder, size, "the model")


def save_model(
    params: decoder.Params,
    config: ModelConfig,
    directory: str,
    *,
    tokenizer_source: str | None = None,
    dtype: str | Mapping[tuple[str, ...], np.dtype] | None = None,
    max_shard_bytes: float = 5e9,
) -> None:
    """Writes a directory that `transformers.AutoModelForCausalLM` loads.

    Host memory holds one tensor (of one layer) at a time, not a file.

    Args:
      params, config: the model. Where its arrays span processes, all of them must
        call; process 0 gathers and writes one tensor after another, and all return
        when everything is written.
      directory: local or gs://; made if absent. An earlier export there is removed.
      tokenizer_source: checkpoint whose tokenizer's files are copied, or None.
      dtype: of the files, or of each parameter by its path (see `export_dtype`); None
        takes the widest of the parameters' own, so that nothing is rounded.
      max_shard_bytes: of one safetensors file.
    """
    folder, lead = epath.Path(directory), distributed.is_lead()
    tensors = hf_layout.tensors(config)
    kind_of = _kinds(params, tensors, dtype)
    nbytes = lambda tensor: tensor.size * kind_of(tensor).itemsize
    shards = hf_layout.files(tensors, nbytes, max_shard_bytes)
    size = sum(map(nbytes, tensors))
    distributed.on_lead(lambda: _make_room(folder, size))
    if lead and tokenizer_source:
        hf_tokenizer.copy(resolve(tokenizer_source), folder)
    with progress.Bar(title="saving weights", unit="B", total=size) as bar:
        for file, group in shards.items():
            arrays = _exported(params, group, kind_of, bar)
            if lead:
                held = {t.name: (t.file_shape, kind_of(t)) for t in group}
                safetensors_file.write(folder / file, held, arrays)
            else:
                collections.deque(arrays, maxlen=0)  # takes part in the gathering
    if lead and len(shards) > 1:
        weight_map = {t.name: file for file, group in shards.items() for t in group}
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        text = json.dumps(index, indent=2) + "\n"
        files.write_text(folder / hf_index.INDEX, text)
    if lead:
        counts: collections.Counter = collections.Counter()
        for tensor in tensors:
            counts[kind_of(tensor).name] += tensor.size
        # Of most weights, where files hold several.
        card = architectures.to_hf(config) | {"dtype": counts.most_common(1)[0][0]}
        text = json.dumps(card, indent=2) + "\n"
        files.write_text(folder / "config.json", text)
    distributed.wait(f"exported to {directory}")
