# SPDX-License-Identifier: Apache-2.0
"""What a command line says, and what is said where it is wrong: one line, and a code."""

import ast
import os
import pathlib
import re
import shutil
import sys
import tempfile
import textwrap
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from absl import flags

from jax_surgery import renamed

# Exit codes, see docs/reliability.md; 130 and 75 are in `parallel`.
FAILED = 1  # on the way
WRONG_INPUT = 2

SCRIPT = "jax-surgery"  # the console script of this package
MODULE = "jax_surgery.main"
# The packaged configs lie beside the package, in a checkout and where it is installed.
CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
HELP = ("--help", "-help", "-h", "--helpshort", "-helpshort")
COLUMNS = 80

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


def program() -> list[str]:
    """The words that start this program, in the way in which it was started."""
    script = pathlib.Path(sys.argv[0])
    if script.name != SCRIPT:
        return [shown_path(sys.executable), "-m", MODULE]
    found = shutil.which(SCRIPT)
    # What started the program need not be there any more.
    same = found and script.exists() and os.path.samefile(found, script)
    return [SCRIPT if same else shown_path(script)]


def shown_path(path: object) -> str:
    """A path from the current folder on, where it lies below it."""
    text = str(path)
    return os.path.relpath(text) if text.startswith(os.getcwd() + os.sep) else text


def configs() -> dict[str, str]:
    """Names of the packaged configs, those in folders with the folder's, and the first
    line of what each says of itself."""
    found = {}
    for file in sorted(CONFIGS.rglob("*.py")):
        source = file.read_text(encoding="utf-8")
        if re.search(r"^(def |from .*)?\bget_config\b", source, re.MULTILINE):
            name = file.relative_to(CONFIGS).with_suffix("").as_posix()
            said = ast.get_docstring(ast.parse(source)) or ""
            found[name] = said.partition("\n")[0]
    return found


def config_file(named: str) -> str:
    """The file of a config; what follows a colon goes with it.

    Args:
      named: a file of the user's own, or a packaged config as NAME or configs/NAME.py.
    """
    path, colon, arguments = named.partition(":")
    if not pathlib.Path(path).is_file():
        known = configs()
        name = path.removeprefix("./").removeprefix("configs/").removesuffix(".py")
        if name not in known:
            near = renamed.nearest(name, known)
            hint = f"; did you mean --config={near}?" if near else "."
            fail(
                f"--config={path} is neither a file nor the name of a config{hint} "
                f"The configs are {', '.join(known)}; a file of your own is named by its "
                "path."
            )
        path = str(CONFIGS / f"{name}.py")
    return path + colon + arguments


def _with_config_file(argv: list[str]) -> list[str]:
    """A command line whose --config names a file."""
    found, is_next = [], False
    for word in argv:
        flag, equals, value = word.partition("=")
        if is_next:
            word = config_file(word)
        elif re.fullmatch("--?config", flag) and equals:
            word = f"{flag}={config_file(value)}"
        is_next = bool(re.fullmatch("--?config", word))
        found.append(word)
    return found


def help_text() -> str:
    """What --help prints."""
    usage = "usage: " + " ".join(
        [*program(), "--config=CONFIG [--config.FIELD=VALUE ...] [--workdir=DIR]"]
    )
    shown = {
        "--config=CONFIG": "One of these names, or the path of your own file.",
        "--config.FIELD=VALUE": "Sets a field of it, as in --config.seed=1.",
        "--workdir=DIR": flags.FLAGS["workdir"].help or "",
        "--debug": flags.FLAGS["debug"].help or "",
        "--helpfull": "Show the flags of all libraries too.",
    }
    return "\n".join(
        [
            wrapped(usage, 4),
            "",
            f"configs, which are files in {shown_path(CONFIGS)}:",
            *_tables(configs()),
            "",
            "flags:",
            *_table(shown),
        ]
    )


def wrapped(text: str, indent: int = 0) -> str:
    """A text in lines that a terminal shows whole; the first is not indented."""
    return textwrap.fill(
        text,
        COLUMNS - 1,
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _tables(rows: Mapping[str, str]) -> list[str]:
    """A table of the names of each folder, so that long ones narrow no other's lines."""
    folder = lambda name: name.rpartition("/")[0]
    groups = [
        {n: said for n, said in rows.items() if folder(n) == one}
        for one in sorted({folder(name) for name in rows})
    ]
    return [line for group in groups for line in _table(group)]


def _table(rows: Mapping[str, str]) -> list[str]:
    width = max(map(len, rows), default=0) + 2
    return [wrapped(f"  {n:{width}}{said}", width + 2) for n, said in rows.items()]


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
    if any(word in HELP for word in argv):
        try:
            print(help_text(), flush=True)
        except BrokenPipeError:  # as of `| head`; what is left goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    argv = _with_config_file(argv)
    try:
        rest = flags.FLAGS(argv)
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
    if not flags.FLAGS["config"].present:
        fail(
            f"--config is not given: name one of {', '.join(configs())}, as in "
            "--config=surgery, or a file of your own. --help says what each does."
        )
    return rest


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
