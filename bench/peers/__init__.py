"""Heartbeat services of our own in Go and in Node.js, one statement a heartbeat, to compare with.

They are built below `.data/` where the toolchain is installed. Go takes its packages from Debian's
`golang-github-jackc-pgx-v4-dev` if that is installed, else from the module proxy.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

SOURCES: Final = Path(__file__).parent
ROOT: Final = SOURCES.parent.parent
STATEMENT: Final = SOURCES / "heartbeat.sql"
BUILT: Final = ROOT / ".data" / "peers"
BUILD_SECONDS: Final = 300
DEBIAN: Final = Path("/usr/share/gocode")

Command = Sequence[str]


def command(language: str) -> Command | None:
    """The command of the peer in this language, built; None, with a sentence, without toolchain."""
    program, build = LANGUAGES[language]
    if not shutil.which(program):
        print(f"no peer in {language}: `{program}` is not installed", file=sys.stderr)
        return None
    BUILT.mkdir(parents=True, exist_ok=True)
    try:
        return [*build(), str(STATEMENT)]
    except (subprocess.SubprocessError, OSError) as error:
        output = getattr(error, "stderr", None) or str(error)
        print(f"no peer in {language}: it cannot be built: {output.strip()}", file=sys.stderr)
        return None


def _go() -> Command:
    binary = BUILT / "heartbeat"
    packaged = (DEBIAN / "src/github.com/jackc/pgx/v4").exists()
    source = {"GO111MODULE": "off", "GOPATH": str(DEBIAN)} if packaged else {"GOFLAGS": "-mod=mod"}
    for name in ("go.mod", "heartbeat.go"):
        shutil.copy(SOURCES / name, BUILT)
    _run("go", "build", "-o", str(binary), "heartbeat.go", variables=source)
    return [str(binary)]


def _node() -> Command:
    for name in ("package.json", "heartbeat.mjs"):
        shutil.copy(SOURCES / name, BUILT)
    _run("npm", "install", "--no-audit", "--no-fund", "--silent")
    return [shutil.which("node") or "node", str(BUILT / "heartbeat.mjs")]


def _run(*command: str, variables: Mapping[str, str] | None = None) -> None:
    environment = {**os.environ, **(variables or {})}
    subprocess.run(
        command,
        cwd=BUILT,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
    )


LANGUAGES: Final[Mapping[str, tuple[str, Callable[[], Command]]]] = {
    "Go": ("go", _go),
    "Node": ("node", _node),
}
