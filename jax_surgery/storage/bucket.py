# SPDX-License-Identifier: Apache-2.0
"""gs:// through gcsfs, with requests that are repeated until the bucket answers again.

gcsfs gives up after six tries, about half a minute, and logs a traceback. A run of hours
meets longer outages, so a request is repeated for `PATIENCE` seconds here, and what
happens is said in one line.
"""

import asyncio
import email.utils
import io
import json
import random
import threading
import time
import urllib.parse
from typing import Any, NamedTuple

import aiohttp
import google.auth.exceptions
import requests
from etils.epath import backend
from fsspec import asyn
from gcsfs.core import GCSFile, GCSFileSystem
from gcsfs.retry import HttpError

from jax_surgery.storage import say
from jax_surgery.storage.errors import (
    BucketMissing,
    StorageAway,
    StorageDenied,
    StorageError,
)

PATIENCE = 1200.0  # seconds for which a request that fails is repeated
IMPATIENCE = 30.0  # the same once a request was given up, until one works
LONGEST = 30.0  # seconds between two tries
SPOKEN = 60.0  # seconds between two lines about a bucket that does not answer
AGAIN = frozenset((408, 429, 500, 502, 503, 504))  # states that pass
DENIED = frozenset((401, 403))
# Seconds; a transfer of any length is fine as long as bytes arrive.
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=20, sock_read=60)
PASSING = (
    aiohttp.ClientError,
    requests.exceptions.RequestException,
    google.auth.exceptions.TransportError,
    ConnectionError,
    asyncio.TimeoutError,
)


class _Voice:
    """Says that a bucket does not answer, and that it does again, without repeating it."""

    def __init__(self):
        self._lock = threading.Lock()
        self._spoken = -SPOKEN  # when, of a monotonic clock

    def failed(self, what: str, since: float, patience: float) -> None:
        """Of a request that has failed since a time and will be repeated."""
        now = time.monotonic()
        with self._lock:
            if now - self._spoken < SPOKEN:
                return
            self._spoken = now
        waited = f" for {now - since:.0f} s" if now - since >= 1 else ""
        say(f"{what}{waited}; requests are repeated for up to {_in_words(patience)}")

    def worked(self, name: str, since: float) -> None:
        """Of a request that failed since a time, and has worked now."""
        now = time.monotonic()
        if now - since >= 10:
            say(f"gs://{name} answers again, after {now - since:.0f} s")


_voice = _Voice()


class Version(NamedTuple):
    """An object as it is now: its bytes, its generation and its age in seconds."""

    data: bytes
    generation: int
    age: float


def _in_words(seconds: float) -> str:
    """A time, as 20 minutes or 30 s."""
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} s"


def reason(error: BaseException) -> str:
    """What went wrong, in a few words."""
    if isinstance(error, HttpError):
        return f"status {error.code}"
    if isinstance(error, requests.exceptions.ProxyError):
        return "status 502"
    if isinstance(error, asyncio.TimeoutError):
        return "no answer in time"
    words = str(error).strip().splitlines()
    return words[0][:120] if words else type(error).__name__


def _passes(error: BaseException) -> bool:
    """Whether a request that failed so may work when it is repeated."""
    if isinstance(error, HttpError):
        return error.code is None or int(error.code) in AGAIN
    if isinstance(error, google.auth.exceptions.RefreshError):
        return bool(getattr(error, "retryable", False))
    if isinstance(error, aiohttp.InvalidURL):
        return False
    return isinstance(error, PASSING)


def _refuses(error: BaseException) -> bool:
    """Whether the bucket does not accept the credentials, or there are none."""
    if isinstance(error, HttpError) and error.code is not None:
        return int(error.code) in DENIED
    if isinstance(error, google.auth.exceptions.GoogleAuthError):
        return not _passes(error)
    return isinstance(error, OSError) and str(error).startswith("Forbidden")


def _place(path: str, args: tuple[str, ...]) -> str:
    """gs://BUCKET/NAME of a request, for messages."""
    if args:
        return "gs://" + "/".join(args[:2])
    if "b/" not in path:
        return path
    words = path.partition("/storage/v1/b/" if "/v1/" in path else "b/")[2]
    return "gs://" + urllib.parse.unquote(words.split("?")[0].removesuffix("/o"))


def _denied(error: BaseException, path: str, args: tuple[str, ...]) -> StorageDenied:
    words = " ".join(str(error).partition("\n")[2].split()) or reason(error)
    return StorageDenied(
        f"{_place(path, args)} refuses the credentials in use ({words[:200]}). Log in "
        "with `gcloud auth application-default login`, or give the account the role "
        "Storage Object Admin of that bucket."
    )


class _Part(io.BytesIO):
    """Bytes of an upload, to which no view holds on.

    Python 3.12.1 crashes where garbage is collected that holds a view of a BytesIO, as
    the error of an upload that failed does (python/cpython#111049).
    """

    def getbuffer(self) -> memoryview:
        return memoryview(self.getvalue())  # of bytes, which are not copied for it


_PlainFile: Any = GCSFile


class _File(_PlainFile):
    """gcsfs' file, whose uploads are of `_Part`s."""

    @property
    def buffer(self) -> Any:
        """What is written and not yet uploaded; None once all is."""
        return self._buffer

    @buffer.setter
    def buffer(self, given: io.BytesIO | None) -> None:
        part = None
        if given is not None:
            part = _Part(given.getvalue())
            part.seek(given.tell())
        self._buffer = part


_Plain: Any = GCSFileSystem  # its signatures are narrower than what it takes


class Bucket(_Plain):
    """gcsfs without its cache of listings, which other hosts' files would not be in.

    It is gcsfs' plain class, all of whose requests can be repeated: the one for zonal
    buckets asks further services, with credentials of their own.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        self._away = False  # the last request was given up
        kwargs.setdefault("use_listings_cache", False)
        kwargs.setdefault("requests_timeout", TIMEOUT)
        try:
            super().__init__(*args, **kwargs)
        except google.auth.exceptions.GoogleAuthError as error:
            raise StorageDenied(
                f"gs:// cannot be used: {reason(error)} Log in with `gcloud auth "
                "application-default login`."
            ) from error

    async def _request(self, method: str, path: str, *args: str, **kwargs: Any) -> Any:
        """One request, repeated while it fails in a way that passes.

        After one that was given up the next ones are so sooner, until one works: whoever
        cleans up behind the first would wait as long once more for each.
        """
        # Without gcsfs' own repetition, which is in the decorator.
        once = GCSFileSystem._request.__wrapped__  # pyrefly: ignore[missing-attribute]
        began, tries = time.monotonic(), 0
        while True:
            try:
                found = await once(self, method, path, *args, **kwargs)
                self._away = False
                if tries:
                    _voice.worked(_place(path, args).split("/")[2], began)
                return found
            except FileNotFoundError:
                self._away = False
                if method.upper() == "DELETE" and tries:
                    return 204, {}, None, b""  # an earlier try has removed it
                if "/moveTo/" in path and tries:
                    return 200, {}, None, b"{}"  # an earlier try has moved it
                if "/upload/" in path:
                    bucket = _place(path, args)
                    raise BucketMissing(
                        f"{bucket} does not exist; make that bucket (gcloud storage "
                        f"buckets create {bucket}) or correct its name."
                    ) from None
                raise
            except Exception as error:
                if _refuses(error):
                    raise _denied(error, path, args) from error
                if not _passes(error):
                    self._away = False
                    raise
                patience = min(PATIENCE, IMPATIENCE) if self._away else PATIENCE
                waited = time.monotonic() - began
                if waited > patience:
                    self._away = True
                    raise StorageAway(
                        f"{_place(path, args)} did not answer for "
                        f"{_in_words(waited)} ({reason(error)}). Check the network and "
                        "the bucket."
                    ) from error
                if tries:  # a single failure is no news
                    what = f"{_place(path, args)}: {reason(error)}"
                    _voice.failed(what, began, patience)
            wait = min(2.0 ** min(tries, 10) / 4, LONGEST)
            await asyncio.sleep(wait * random.uniform(0.5, 1))
            tries += 1

    def _open(
        self, path: str, mode: str = "rb", block_size: int | None = None, **kwargs: Any
    ) -> _File:
        # As gcsfs opens its own: a file by itself would check MD5 sums.
        kwargs["consistency"] = kwargs.get("consistency") or self.consistency
        return _File(self, path, mode, block_size or self.default_block_size, **kwargs)

    async def _isdir(self, path: str) -> bool:
        try:
            return (await self._info(path))["type"] == "directory"
        except FileNotFoundError:
            return False  # and not for every OSError: refused is not absent

    async def _ls(self, path: str, detail: bool = False, **kwargs: Any) -> list[Any]:
        """gcsfs' listing without the folder itself, which a browser makes an object of."""
        own = self._strip_protocol(path).rstrip("/")
        found = [
            entry
            for entry in await super()._ls(path, detail=True, **kwargs)
            if entry["type"] != "directory" or entry["name"].rstrip("/") != own
        ]
        return found if detail else [entry["name"] for entry in found]

    def version(self, path: str) -> Version | None:
        """An object as it is now, or None; its age is by the server's clock."""
        return asyn.sync(self.loop, self._version, path)

    async def _version(self, path: str) -> Version | None:
        bucket, key, _ = self.split_path(path)
        while True:
            try:
                headers, raw = await self._call("GET", "b/{}/o/{}", bucket, key)
                card = json.loads(raw)
                _, data = await self._call(
                    *("GET", "b/{}/o/{}", bucket, key),
                    alt="media",
                    generation=card["generation"],
                )
            except FileNotFoundError:
                if not await self._exists(path):
                    return None
                continue  # another generation has come in between
            now = email.utils.parsedate_to_datetime(headers["Date"])
            age = (now - self._parse_timestamp(card["updated"])).total_seconds()
            return Version(data, int(card["generation"]), age)

    def put_if(self, path: str, data: bytes, generation: int) -> int:
        """Writes an object if it is of that generation (0: absent); the new generation.

        Raises:
          FileExistsError: it is of another.
        """
        bucket, key, _ = self.split_path(path)
        try:
            card = self.call(
                "POST",
                f"{self._location}/upload/storage/v1/b/{bucket}/o",
                uploadType="media",
                name=key,
                ifGenerationMatch=str(generation),
                headers={"Content-Type": "application/json"},
                data=data,
                json_out=True,
            )
        except FileExistsError:
            # An earlier try may have been carried out without an answer.
            there = self.version(path)
            if there is None or there.data != data:
                raise
            return there.generation
        return int(card["generation"])

    def remove_if(self, path: str, generation: int) -> None:
        """Removes an object if it is of that generation."""
        bucket, key, _ = self.split_path(path)
        try:
            self.call(
                *("DELETE", "b/{}/o/{}", bucket, key),
                ifGenerationMatch=str(generation),
            )
        except (FileExistsError, FileNotFoundError):
            pass  # it is another's by now, or gone


def of(path: Any) -> Bucket:
    """The bucket of a gs:// path.

    Raises:
      StorageError: another kind of storage.
    """
    found = backend.fsspec_backend.fs(str(path))
    if not isinstance(found, Bucket):
        raise StorageError(f"{path} is not in a bucket of Google Cloud Storage.")
    return found
