# SPDX-License-Identifier: Apache-2.0
"""Objects in buckets, and what a request of Cloud Storage's JSON API does to them.

Objects have generations and preconditions, listings a prefix and a delimiter, uploads
may be of one piece, of several parts or resumable. Buckets are flat, as they are: there
are no folders, and making one does nothing.
"""

import base64
import dataclasses
import datetime
import hashlib
import itertools
import json
import re
import threading
import time
import urllib.parse
from typing import Any


@dataclasses.dataclass
class Stored:
    """An object."""

    data: bytes
    generation: int
    updated: float
    content_type: str = "application/octet-stream"


@dataclasses.dataclass
class Answer:
    """A response."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = dataclasses.field(default_factory=dict)


def as_json(value: Any, **headers: str) -> Answer:
    body = json.dumps(value).encode()
    return Answer(200, body, {"Content-Type": "application/json"} | headers)


def failed(status: int, message: str) -> Answer:
    body = {"error": {"code": status, "message": message, "errors": []}}
    return Answer(
        status, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )


class Storage:
    """Buckets by name, and what a request does to them."""

    def __init__(self, *buckets: str):
        self.buckets: dict[str, dict[str, Stored]] = {name: {} for name in buckets}
        self.sessions: dict[str, dict[str, Any]] = {}
        self.generations = itertools.count(1_700_000_000_000_001)
        self.lock = threading.RLock()
        self.requests: list[str] = []
        self.written: list[str] = []  # BUCKET/NAME of every object, as it was written

    def card(self, bucket: str, name: str) -> dict[str, Any]:
        """The metadata of an object."""
        found = self.buckets[bucket][name]
        when = datetime.datetime.fromtimestamp(found.updated, datetime.UTC)
        stamp = when.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        digest = hashlib.md5(found.data, usedforsecurity=False).digest()
        return {
            "kind": "storage#object",
            "id": f"{bucket}/{name}/{found.generation}",
            "name": name,
            "bucket": bucket,
            "generation": str(found.generation),
            "metageneration": "1",
            "contentType": found.content_type,
            "storageClass": "STANDARD",
            "size": str(len(found.data)),
            "md5Hash": base64.b64encode(digest).decode(),
            "timeCreated": stamp,
            "updated": stamp,
            "etag": str(found.generation),
        }

    def put(
        self, bucket: str, name: str, data: bytes, kind: str, query: dict
    ) -> Answer:
        """Stores an object where the precondition holds."""
        if bucket not in self.buckets:
            return failed(404, "The specified bucket does not exist.")
        if refused := self.precondition(bucket, name, query):
            return refused
        found = Stored(data, next(self.generations), time.time(), kind)
        self.buckets[bucket][name] = found
        self.written.append(f"{bucket}/{name}")
        return as_json(self.card(bucket, name))

    def precondition(self, bucket: str, name: str, query: dict) -> Answer | None:
        """The refusal of a request whose precondition does not hold."""
        there = self.buckets[bucket].get(name)
        generation = there.generation if there else 0
        wanted = query.get("ifGenerationMatch")
        if wanted is not None and int(wanted) != generation:
            return failed(412, "At least one of the pre-conditions did not hold.")
        if query.get("ifGenerationNotMatch") == str(generation):
            return Answer(304)
        return None

    def listing(self, bucket: str, query: dict) -> Answer:
        """Names with a prefix, up to a delimiter."""
        if bucket not in self.buckets:
            return failed(404, "The specified bucket does not exist.")
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        first = max(query.get("startOffset", ""), query.get("pageToken", ""))
        last, limit = query.get("endOffset"), int(query.get("maxResults", 1000))
        items: list[dict] = []
        prefixes: list[str] = []
        token = ""
        for name in sorted(self.buckets[bucket]):
            if not name.startswith(prefix) or name < first or (last and name >= last):
                continue
            cut = name.find(delimiter, len(prefix)) if delimiter else -1
            folder = name[: cut + len(delimiter)] if cut >= 0 else ""
            if folder in prefixes:
                continue
            if len(items) + len(prefixes) == limit:
                token = name
                break
            if folder:
                prefixes.append(folder)
            else:
                items.append(self.card(bucket, name))
        found: dict[str, Any] = {"kind": "storage#objects"}
        found |= {"items": items} if items else {}
        found |= {"prefixes": prefixes} if prefixes else {}
        return as_json(found | ({"nextPageToken": token} if token else {}))

    def read(self, bucket: str, name: str, query: dict, headers: Any) -> Answer:
        """An object's bytes or metadata."""
        there = self.buckets.get(bucket, {}).get(name)
        wanted = query.get("generation")
        if there is None or (wanted and int(wanted) != there.generation):
            return failed(404, f"No such object: {bucket}/{name}")
        if refused := self.precondition(bucket, name, query):
            return refused
        if query.get("alt") != "media":
            return as_json(self.card(bucket, name))
        about = {
            "Content-Type": there.content_type,
            "x-goog-generation": str(there.generation),
            "x-goog-metageneration": "1",
            "ETag": f'"{there.generation}"',
        }
        span = re.fullmatch(r"bytes=(\d*)-(\d*)", headers.get("Range", ""))
        if not span:
            return Answer(200, there.data, about)
        size = len(there.data)
        start = int(span[1]) if span[1] else max(0, size - int(span[2]))
        stop = min(size, int(span[2]) + 1) if span[1] and span[2] else size
        if start >= size:
            return failed(416, "The requested range cannot be satisfied.")
        about["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return Answer(206, there.data[start:stop], about)

    def upload(self, bucket: str, query: dict, headers: Any, body: bytes) -> Answer:
        """One piece, several parts, or the start of a resumable upload."""
        kind = headers.get("Content-Type", "application/octet-stream")
        match query.get("uploadType"):
            case "media":
                return self.put(bucket, query["name"], body, kind, query)
            case "multipart":
                card, kind, data = parts(kind, body)
                name = card.get("name") or query["name"]
                return self.put(bucket, name, data, kind, query)
            case "resumable":
                if bucket not in self.buckets:
                    return failed(404, "The specified bucket does not exist.")
                name = query.get("name") or json.loads(body)["name"]
                if refused := self.precondition(bucket, name, query):
                    return refused
                number = f"upload-{next(self.generations)}"
                self.sessions[number] = {
                    "bucket": bucket,
                    "name": name,
                    "query": query,
                    "kind": headers.get("X-Upload-Content-Type", "text/plain"),
                    "data": b"",
                    "done": None,
                }
                address = f"http://{headers['Host']}/upload/storage/v1/b/{bucket}/o"
                link = f"{address}?uploadType=resumable&upload_id={number}"
                return Answer(200, b"", {"Location": link})
        return failed(400, f"uploadType={query.get('uploadType')}")

    def chunk(self, number: str, headers: Any, body: bytes) -> Answer:
        """A chunk of a resumable upload; bytes that were stored before are left out."""
        session = self.sessions.get(number)
        if session is None:
            return failed(404, "no such upload")
        if session["done"]:
            return session["done"]
        span = headers.get("Content-Range", "")
        matched = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", span)
        start = int(matched[1]) if matched and matched[1] else len(session["data"])
        if start > len(session["data"]):
            return failed(400, "a chunk was left out")
        session["data"] += body[len(session["data"]) - start :]
        whole = matched is None or matched[3] == str(len(session["data"]))
        if whole:
            where = session["bucket"], session["name"], session["data"]
            session["done"] = self.put(*where, session["kind"], session["query"])
            return session["done"]
        held = len(session["data"])
        return Answer(308, b"", {"Range": f"bytes=0-{held - 1}"} if held else {})

    def handle(self, method: str, url: str, headers: Any, body: bytes) -> Answer:
        """The answer to a request."""
        parsed = urllib.parse.urlsplit(url)
        query = dict(urllib.parse.parse_qsl(parsed.query, keep_blank_values=True))
        path = parsed.path.replace("//", "/")
        path = re.sub(r"^/(download|upload)?/?storage/v1/", "", path)
        words = [urllib.parse.unquote(word) for word in path.split("/")]
        with self.lock:
            self.requests.append(f"{method} {url}")
            if "upload_id" in query:
                if method == "DELETE":
                    self.sessions.pop(query["upload_id"], None)
                    return Answer(499)
                return self.chunk(query["upload_id"], headers, body)
            match [method, *words]:
                case ["GET", "b", bucket]:
                    if bucket not in self.buckets:
                        return failed(404, "The specified bucket does not exist.")
                    return as_json({"kind": "storage#bucket", "name": bucket})
                case ["GET", "b", bucket, "o"]:
                    return self.listing(bucket, query)
                case ["POST", "b", bucket, "o"]:
                    return self.upload(bucket, query, headers, body)
                case ["GET", "b", bucket, "o", name]:
                    return self.read(bucket, name, query, headers)
                case ["DELETE", "b", bucket, "o", name]:
                    if name not in self.buckets.get(bucket, {}):
                        return failed(404, f"No such object: {bucket}/{name}")
                    if refused := self.precondition(bucket, name, query):
                        return refused
                    del self.buckets[bucket][name]
                    return Answer(204)
                case ["POST", "b", bucket, "o", name, "moveTo", "o", new]:
                    there = self.buckets[bucket].pop(name, None)
                    if there is None:
                        return failed(404, f"No such object: {bucket}/{name}")
                    return self.put(bucket, new, there.data, there.content_type, {})
                case ["POST", "b", bucket, "o", name, "rewriteTo", "b", into, "o", new]:
                    there = self.buckets[bucket].get(name)
                    if there is None:
                        return failed(404, f"No such object: {bucket}/{name}")
                    self.put(into, new, there.data, there.content_type, {})
                    return as_json({"done": True, "resource": self.card(into, new)})
        return failed(501, f"{method} {url} is not understood")


def parts(kind: str, body: bytes) -> tuple[dict, str, bytes]:
    """(metadata, content type, data) of a multipart upload."""
    boundary = re.search(r'boundary="?([^";]+)"?', kind)
    assert boundary
    mark = b"--" + boundary[1].encode()
    _, first, rest = body.split(mark, 2)
    data = rest.rsplit(b"\n" + mark, 1)[0].removesuffix(b"\r")
    head, data = re.split(rb"\r?\n\r?\n", data.lstrip(b"\r\n"), maxsplit=1)
    stated = re.search(rb"content-type:\s*(\S+)", head, re.IGNORECASE)
    card = re.split(rb"\r?\n\r?\n", first, maxsplit=1)[1]
    what = stated[1].decode() if stated else "application/octet-stream"
    return json.loads(card), what, data
