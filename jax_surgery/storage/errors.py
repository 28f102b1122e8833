# SPDX-License-Identifier: Apache-2.0
"""Errors of storage, whose messages say all that a user needs."""


class StorageError(OSError):
    """A disk or a bucket cannot be used; one line says which, why and what to do."""


class StorageDenied(StorageError):
    """The bucket refuses the credentials that are in use."""


class BucketMissing(StorageError, FileNotFoundError):
    """There is no such bucket."""


class StorageAway(StorageError):
    """The bucket did not answer for as long as requests are repeated."""


class DiskFull(StorageError):
    """The disk has less room than what is written needs."""


class WorkdirInUse(StorageError, ValueError):
    """Another run works in the workdir."""
