# SPDX-License-Identifier: Apache-2.0
"""What gcloud's errors mean: whether to try again, and what to do about the others."""

from __future__ import annotations

import dataclasses
import re


class LaunchError(Exception):
    """Something that the user is told in whole sentences; the process ends with `code`."""

    code = 1


class WrongInput(LaunchError):
    """What was given is wrong: a name, a flag, a file."""

    code = 2


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of failure of gcloud.

    Attributes:
      pattern: found in what gcloud writes to stderr, or in a queued resource's error.
      advice: what the user can do; {zone} and {name} are filled in.
      again: whether the same call may work in a moment.
    """

    name: str
    pattern: str
    advice: str
    again: bool = False


# The first that matches counts. A quota that is counted per minute passes by itself.
KINDS = (
    # Of a command on a worker, of which `work.on_all` says so: its words are its own.
    Kind("worker", r"launch: failed on ", "What it wrote is above."),
    Kind(
        "rate",
        r"per minute|rateLimitExceeded|Too many requests",
        "Google limits calls per minute; try again in a few minutes.",
        again=True,
    ),
    Kind(
        "preempted",
        r'terminal state "(PREEMPTED|TERMINATED)"|state "?(PREEMPTED|SUSPENDED)',
        "The slice was taken away; 'python -m launch resume {name}' makes it anew and "
        "goes on.",
    ),
    Kind(
        "stockout",
        r"no more capacity|[Ii]nsufficient (reserved )?capacity|STOCKOUT"
        r"|ZONE_RESOURCE_POOL_EXHAUSTED|not have enough resources available",
        "{zone} has no such slice free now. Try again later, in another zone, with "
        "another slice, or without --spot.",
    ),
    Kind(
        "quota",
        r"[Qq]uota|RESOURCE_EXHAUSTED",
        "Your project may not have so many chips. Requests that are SUSPENDED or FAILED "
        "count too ('gcloud compute tpus queued-resources list --zone={zone}'); ask for "
        "more at https://console.cloud.google.com/iam-admin/quotas, use a smaller "
        "slice, or the other of spot and on demand, which have quotas of their own.",
    ),
    Kind(
        "exists",
        r"ALREADY_EXISTS|already exists",
        "Choose another name than {name}.",
    ),
    Kind(
        "missing",
        r"NOT_FOUND|was not found|HTTPError 404",
        "Look at the name and zone.",
    ),
    Kind(
        "disabled",
        r"SERVICE_DISABLED|has not been used in project|API .*not enabled",
        "Turn the API on: gcloud services enable tpu.googleapis.com compute.googleapis.com",
    ),
    Kind(
        "login",
        r"gcloud auth login|active account selected|[Rr]eauthentication|invalid_grant",
        "Log in: gcloud auth login",
    ),
    Kind(
        "key",
        r"not present in the SSH agent|Permission denied \(publickey",
        "Give ssh your key, and try again: eval $(ssh-agent); "
        "ssh-add ~/.ssh/google_compute_engine",
    ),
    Kind(
        "permission",
        r"PERMISSION_DENIED|[Pp]ermission .*denied|does not have permission|403",
        "Your account lacks a role in this project: roles/tpu.admin, "
        "roles/iam.serviceAccountUser, and roles/storage.admin for buckets.",
    ),
    Kind(
        "arguments",
        r"unrecognized arguments|Invalid choice|INVALID_ARGUMENT|argument --",
        "Where gcloud is old: gcloud components update. Else look at zone and slice: "
        "gcloud compute tpus accelerator-types list --zone={zone}",
    ),
    Kind(
        "ssh",
        r"ssh: |return code \[255\]|exit status 255|port 22|kex_exchange|Could not SSH",
        "The worker does not answer. A new slice needs some minutes; a firewall may "
        "close port 22; a worker that stays away is replaced by "
        "'python -m launch resume {name}'.",
        again=True,
    ),
    Kind(
        "not ready",
        r'This TPU has state "|maintenance event, and is currently unavailable'
        r"|FAILED_PRECONDITION|ABORTED|concurrent operation",
        "The slice is being changed or repaired; try again in some minutes.",
        again=True,
    ),
    Kind(
        "unavailable",
        r"UNAVAILABLE|INTERNAL|DEADLINE_EXCEEDED|[Ii]nternal error|Backend Error"
        r"|\b50[0234]\b|timed out|Connection (aborted|refused|reset|closed)"
        r"|Name or service not known|Temporary failure|[Uu]nable to find the server"
        r"|[Nn]etwork is unreachable",
        "Google's service or the network did not answer; try again later.",
        again=True,
    ),
)
OTHER = Kind("other", "", "")


class GcloudError(LaunchError):
    """A call of gcloud that failed.

    Attributes:
      kind: what it means.
      said: what gcloud wrote.
    """

    def __init__(self, kind: Kind, said: str, zone: str = "", name: str = ""):
        advice = kind.advice.format(zone=zone or "the zone", name=name or "NAME")
        super().__init__(" ".join(filter(None, [last_words(said), advice])))
        self.kind = kind
        self.said = said


def kind_of(said: str) -> Kind:
    """The kind of failure that a text tells."""
    return next((kind for kind in KINDS if re.search(kind.pattern, said)), OTHER)


def last_words(said: str) -> str:
    """The error of what gcloud wrote: its ERROR lines, or its last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    workers = [
        line.strip("# ")
        for line in lines
        if "launch: failed on" in line or "Command execution on worker" in line
    ]
    chosen = [*workers, *errors] or lines[-1:] or ["gcloud failed and said nothing"]
    return " ".join(each.rstrip(".") + "." for each in dict.fromkeys(chosen))
