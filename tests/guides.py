"""Runs the code blocks of a guide in order, in one process for each language.

```python            `python`, `sh`, `console` and `js` blocks are run. Python and shell keep
print(1 + 1)         their names; a `js` block is a module; `console` has commands after `$ `.
```
```output            An `output`, `text` or `json` block directly below is what the block above
2                    prints. White space is not compared, and `…` stands for any text.
```                  Any other block has a reason: *Not run by the tests: it needs systemd.*
"""

import asyncio
import os
import re
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.processes import dying_with_parent

FENCE: Final = re.compile(r"^```([\w-]*)[^\n]*\n(.*?)^```$\n*", re.M | re.S)
REASON: Final = re.compile(r"\*Not run by the tests: \S[^*]+\.\*$", re.M)
COMMAND: Final = re.compile(r"^\$ ((?:.*\\\n)*.*\n)((?:(?!\$ ).*\n)*)", re.M)
ENDED: Final = "-- this block has ended --"
SHELL: Final = f'set -euo pipefail; while read -r f; do . "$f" </dev/null; echo "{ENDED}"; done'
PYTHON: Final = f"""import sys
names = {{"__name__": "__main__"}}
for path in map(str.strip, sys.stdin):
    exec(compile(open(path).read(), path, "exec"), names)
    print("{ENDED}")
"""
NODE: Final = f"""import {{ createInterface }} from "node:readline";
for await (const path of createInterface({{ input: process.stdin }})) {{
  await import(path); console.log("{ENDED}");
}}"""
RUNNERS: Final = {
    "py": (sys.executable, "-u", "-c", PYTHON),
    "sh": ("bash", "-c", SHELL),
    "mjs": ("node", "--input-type=module", "--eval", NODE),
}
SUFFIXES: Final = {"python": "py", "sh": "sh", "console": "sh", "js": "mjs"}


class Block(NamedTuple):
    """Code of a guide, and what it prints (empty: anything)."""

    suffix: str
    line: int
    code: str
    printed: str = ""


def blocks(guide: str) -> list[Block]:
    """The blocks of a guide that are run; AssertionError if one is neither run nor excused."""
    found: list[Block] = []
    end_of_run = -1
    assert guide.count("```") == 2 * len(FENCE.findall(guide)), "a fence is indented or open"
    for match in FENCE.finditer(guide):
        language, code = match.groups()
        line = guide.count("\n", 0, match.start()) + 1
        if match.start() == end_of_run and language in ("output", "text", "json"):
            found[-1] = found[-1]._replace(printed=code)
        elif not REASON.match(guide, match.end()):
            assert language in SUFFIXES, f"line {line}: the block is neither run nor excused"
            pairs = COMMAND.findall(code) if language == "console" else [(code, "")]
            found += [Block(SUFFIXES[language], line, *pair) for pair in pairs]
            end_of_run = match.end()
    return found


def is_printed(expected: str, text: str) -> bool:
    """Whether `text` is what a guide shows: white space is left out, `…` is any text."""
    pieces = "".join(expected.split()).split("…")
    return re.fullmatch(".*".join(map(re.escape, pieces)), "".join(text.split())) is not None


async def run_guide(guide: Path, folder: Path, /, **variables: str) -> None:
    """Runs every block of `guide` in `folder`, with `variables` in its environment."""
    runners: dict[str, asyncio.subprocess.Process] = {}
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    try:
        for suffix, line, code, expected in blocks(guide.read_text("utf-8")):
            if shutil.which(RUNNERS[suffix][0]) is None:
                pytest.skip(f"{RUNNERS[suffix][0]} is not installed")
            if suffix not in runners:
                runners[suffix] = await asyncio.create_subprocess_exec(
                    *RUNNERS[suffix],
                    cwd=folder,
                    env=os.environ | path | variables,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=dying_with_parent(),
                )
            file = folder / f"{guide.stem}-{line}.{suffix}"
            file.write_text(code, "utf-8")
            text, has_ended = await asyncio.wait_for(run_file(runners[suffix], file), 60)
            assert has_ended, f"{guide.name}:{line} failed:\n{text}"
            assert not expected or is_printed(expected, text), f"{guide.name}:{line} printed {text}"
    finally:
        for process in runners.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def run_file(runner: asyncio.subprocess.Process, file: Path) -> tuple[str, bool]:
    """Returns what a file prints, and whether it ends without an error."""
    assert runner.stdin is not None
    assert runner.stdout is not None
    runner.stdin.write(f"{file}\n".encode())
    text = ""
    while ENDED not in text and (line := await runner.stdout.readline()):
        text += line.decode()
    return text.partition(ENDED)[0], ENDED in text
