# SPDX-License-Identifier: Apache-2.0
"""Files of a run, on local disks and in buckets, where folders do not exist.

Everything that lists, makes, renames or removes files goes through `files`; requests to
gs:// that fail for a while are repeated by `bucket`; `lock` keeps a second run out of a
workdir, and `space` looks whether a disk has room.
"""

import sys

import fsspec
import tqdm

# fsspec loads the class, and with it gcsfs, when the first gs:// path is opened.
for _scheme in ("gs", "gcs"):
    fsspec.register_implementation(
        _scheme,
        "jax_surgery.storage.bucket.Bucket",
        clobber=True,
        errtxt="gs:// needs gcsfs",
    )


def say(line: str) -> None:
    """Prints a line above the progress bars."""
    tqdm.tqdm.write(line, file=sys.stderr)
