"""Client generators make a whole client from the document; each is skipped if it is not installed.

They are looked for in PATH and in the folders of `OPENAPI_GENERATORS`, separated as in PATH: for
example in `node_modules/.bin`.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.openapi.described import DOCUMENT, Json

OPERATIONS = [one for methods in DOCUMENT["paths"].values() for one in methods.values()]
NAMES = {operation["operationId"] for operation in OPERATIONS}
SCHEMAS: dict[str, Json] = DOCUMENT["components"]["schemas"]
BODIES = {name: schema for name, schema in SCHEMAS.items() if name.endswith("Body")}
BEAT = {
    name: name in BODIES["HeartbeatBody"]["required"]
    for name in BODIES["HeartbeatBody"]["properties"]
}


def generate(program: str, folder: Path, *options: str) -> Path:
    """Runs a generator on the document, without a warning; returns what it wrote."""
    places = os.pathsep.join(filter(None, map(os.environ.get, ("OPENAPI_GENERATORS", "PATH"))))
    path = shutil.which(program, path=places)
    if path is None:
        pytest.skip(f"{program} is not installed, in PATH or in a folder of OPENAPI_GENERATORS")
    (folder / "openapi.json").write_text(json.dumps(DOCUMENT, default=str))
    done = subprocess.run([path, *options], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "client"


def mandatory(text: str) -> dict[str, bool]:
    """The members of a type in TypeScript, each with whether it is mandatory."""
    return {name: not mark for name, mark in re.findall(r"^ +(\w+)(\??): ", text, re.M)}


@pytest.mark.slow
def test_openapi_python_client_has_every_operation(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("post_hooks: []")  # do not format the client
    options = ("--path", "openapi.json", "--output-path", "client", "--config", "config.yaml")
    client = generate("openapi-python-client", tmp_path, "generate", "--fail-on-warning", *options)
    modules = {path.stem for path in client.glob("*/api/*/*.py")} - {"__init__"}
    assert modules == NAMES
    model = next(client.glob("*/models/heartbeat_body.py")).read_text()
    members = re.findall(r"^    (\w+): (.*)$", model.partition("def to_dict")[0], re.M)
    assert {name: "UNSET" not in kind for name, kind in members if name in BEAT} == BEAT


@pytest.mark.slow
def test_openapi_typescript_has_every_operation(tmp_path: Path) -> None:
    client = generate("openapi-typescript", tmp_path, "openapi.json", "-o", "client").read_text()
    operations = client.partition("export interface operations {")[2]
    assert {*re.findall(r"^    (\w+): \{$", operations, re.M)} == NAMES
    [beat] = re.findall(r"^ {8}HeartbeatBody: \{$(.*?)^ {8}\};$", client, re.M | re.S)
    assert mandatory(beat) == BEAT


@pytest.mark.slow
def test_hey_api_has_every_operation(tmp_path: Path) -> None:
    client = generate("openapi-ts", tmp_path, "-i", "openapi.json", "-o", "client", "--no-log-file")
    functions = re.findall(r"^export const (\w+) = <", (client / "sdk.gen.ts").read_text(), re.M)
    camel = {re.sub(r"_(\w)", lambda match: match[1].upper(), name) for name in NAMES}
    assert {*functions} == camel
    types = (client / "types.gen.ts").read_text()
    [beat] = re.findall(r"^export type HeartbeatBody = \{$(.*?)^\};$", types, re.M | re.S)
    assert mandatory(beat) == BEAT


def test_operations_are_named_by_a_verb_and_a_noun() -> None:
    verbs = {name.partition("_")[0] for name in NAMES}
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)+", name) for name in NAMES)
    assert verbs <= {
        *("approve", "clear", "create", "delete", "deny", "end", "erase", "get", "grant", "import"),
        *("put", "reset", "send", "set", "undo", "update", "verify"),
    }


def test_bodies_have_no_default_that_a_generator_makes_mandatory() -> None:
    assert [name for name, schema in BODIES.items() if '"default"' in json.dumps(schema)] == []
    kind = BODIES["HeartbeatBody"]["properties"]["device_type"]
    assert kind["description"].endswith("Absent: `web`.")


def test_enumerations_have_a_type() -> None:
    untyped = [
        one
        for one in objects(DOCUMENT)
        if isinstance(one.get("enum"), list | tuple) and "type" not in one
    ]
    assert untyped == []


def objects(value: Any) -> Iterator[Json]:
    """Every object of a document."""
    if isinstance(value, dict):
        yield value
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from objects(one)


def test_json_is_the_first_media_type() -> None:
    """openapi-python-client reads the first one only."""
    for operation in OPERATIONS:
        for answer in operation["responses"].values():
            kinds = [*answer.get("content", {})]
            assert kinds[:1] == ["application/json"] or "application/json" not in kinds
