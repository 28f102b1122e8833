# SPDX-License-Identifier: Apache-2.0
"""What a command line says, and what is said where it is wrong: one line, and a code."""

import pathlib
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from absl import flags

from jax_surgery import renamed

# Exit codes, see docs/reliability.md; 130 and 75 are in `parallel`.
FAILED = 1  # on the way
WRONG_INPUT = 2

DEBUG = flags.DEFINE_bool(
    "debug", False, "Show the traceback of an error, which is one line otherwise."
)


def _end(message: str, code: int) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(code)


def fail(
    message: object, code: int = WRONG_INPUT, end: Callable[[str, int], NoReturn] = _end
) -> NoReturn:
    """Ends the process with one message, by `end`."""
    # Before the flags are parsed there are only the words.
    if DEBUG.value if flags.FLAGS.is_parsed() else "--debug" in sys.argv:
        traceback.print_exc()
    end(f"error: {message}", code)


def _config_of(argv: list[str]) -> Mapping[str, Any] | None:
    """The fields of the config that a command line names; None where it has none."""
    named = [a.lstrip("-")[len("config=") :] for a in argv if re.match("--?config=", a)]
    try:
        parser: Any = flags.FLAGS["config"].parser
        return parser.parse(named[-1]).to_dict()
    except Exception:  # noqa: BLE001 (what is wrong with it is said elsewhere)
        return None


def parse_flags(argv: list[str]) -> list[str]:
    """Parses flags; whatever is wrong with them or the config is one line."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        # An error in a config file comes with its traceback, of which the end says it.
        said = [line for line in str(error).splitlines() if line.strip()]
        text = said[0] if "Traceback" not in str(error) else f"--config: {said[-1]}"
        text = text.removeprefix("flag ")
        text = text.replace(
            "invalid literal for int() with base 10:", "no whole number:"
        )
        text = text.replace("could not convert string to float:", "no number:")
        fail(re.sub(r"(\S{200})\S+", r"\1...", text))
    except Exception as error:  # noqa: BLE001 (config files raise what they like)
        fields = _config_of(argv)
        if fields is not None and isinstance(
            error, AttributeError | KeyError | TypeError
        ):
            fail(renamed.of_flags(argv, error, fields))
        fail(f"--config cannot be read: {_named(error)}")


def _named(error: BaseException) -> str:
    """An error's type and the first line of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ": ".join([type(error).__name__, *lines[:1]])


def unforeseen(error: Exception) -> str:
    """One line about an error that nobody foresaw, whose traceback goes to a file."""
    trace = "".join(traceback.format_exception(error))
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        f for f in frames if f.filename.startswith(str(pathlib.Path(__file__).parent))
    ]
    where = (own or frames)[-1]
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="jax_surgery-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(trace)
        kept = f"the traceback is in {file.name}, and --debug shows it"
    except OSError:  # the disk may be what is wrong
        kept = "--debug shows the traceback"
    name = pathlib.Path(where.filename).name
    return f"{_named(error)} (at {name}:{where.lineno}; {kept})"


def one_line_warning(message: Warning | str, *_: Any, **__: Any) -> str:
    """A warning as one line, without the source that raised it."""
    return f"warning: {message}\n"
