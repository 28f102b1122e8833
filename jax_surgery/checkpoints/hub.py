# SPDX-License-Identifier: Apache-2.0
"""Models of the Hugging Face hub."""

import functools

from etils import epath

# Mistral's repositories hold all weights a second time, in the second kind of file.
READ = ["*.safetensors", "*.json", "*.model", "*.jinja", "merges.txt"]
LEFT_OUT = ["consolidated*"]


@functools.cache
def downloaded(source: str) -> epath.Path:
    """The local directory of a model of the hub.

    A process asks the hub once. So all that it reads is of one revision, also where the
    repository changes meanwhile.

    Args:
      source: its name there, such as meta-llama/Llama-2-7b-hf.

    Raises:
      FileNotFoundError: it cannot be downloaded; the next call tries again.
    """
    import huggingface_hub

    try:
        local = huggingface_hub.snapshot_download(
            source, allow_patterns=READ, ignore_patterns=LEFT_OUT
        )
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise FileNotFoundError(
            f"{source!r} is not a local directory, and its download from the hub "
            f"failed ({type(error).__name__}: {said}). Check the name and the network, "
            "and for gated models run `hf auth login`."
        ) from error
    return epath.Path(local)
