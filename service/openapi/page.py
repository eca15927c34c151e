"""The description as a page for people: one document with a search, which loads nothing else."""

import json
import re
from collections.abc import Iterable
from html import escape
from pathlib import Path
from string import Template
from typing import Any, Final

from service.http.inline_source import inline_source

Json = dict[str, Any]

TEMPLATE: Final = Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none';"
    f" style-src {inline_source(TEMPLATE.template, 'style')};"
    f" script-src {inline_source(TEMPLATE.template, 'script')};"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
INTRODUCTION: Final = 2  # paragraphs of the description above the contents
CODE: Final = re.compile(r"`([^`]+)`")
BOUNDS: Final = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "multipleOf": "a multiple of {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "pattern": "matching {}",
    "minItems": "at least {} of them",
    "maxItems": "at most {} of them",
}


def page(document: Json) -> str:
    """The page for an OpenAPI document."""
    info = document["info"]
    paragraphs = info["description"].split("\n\n")
    return TEMPLATE.substitute(
        title=_text(info["title"]),
        version=_text(info["version"]),
        introduction=_prose("\n\n".join(paragraphs[:INTRODUCTION])),
        rules=_prose("\n\n".join(paragraphs[INTRODUCTION:])),
        index="".join(_index(document, tag) for tag in document["tags"]),
        operations="".join(_group(document, tag) for tag in document["tags"]),
        schemas="".join(
            _schema(*item) for item in sorted(document["components"]["schemas"].items())
        ),
    )


def _operations(document: Json, tag: Json) -> Iterable[tuple[str, str, Json]]:
    """The method, path and description of each operation with a tag."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if tag["name"] in operation["tags"]:
                yield method.upper(), path, operation


def _index(document: Json, tag: Json) -> str:
    items = "".join(
        f'<li><a href="#{operation["operationId"]}">{_marked(operation["summary"])}</a>'
        f" <code>{_heading(method, path)}</code></li>"
        for method, path, operation in _operations(document, tag)
    )
    about = _prose(tag["description"])
    return f"<h3>{_text(tag['name'])}</h3>{about}<ul>{items}</ul>"


def _heading(method: str, path: str) -> str:
    return f'<span class="method">{method}</span> {_text(path)}'


def _group(document: Json, tag: Json) -> str:
    sections = "".join(_operation(*operation) for operation in _operations(document, tag))
    return f"<h2>{_text(tag['name'])}</h2>{sections}"


def _operation(method: str, path: str, operation: Json) -> str:
    name = operation["operationId"]
    token = "Needs an access token." if "security" in operation else "Needs no token."
    return f"""
<section id="{name}" aria-labelledby="{name}-name">
<h3 id="{name}-name">{_marked(operation["summary"])}</h3>
<p><code>{_heading(method, path)}</code></p>
{_prose(operation.get("description", ""))}
<p class="quiet">{token} In generated clients: <code>{name}</code>.</p>
{_parameters(operation.get("parameters", []))}
{_request(operation)}
<h4>Responses</h4><dl>{"".join(_response(*item) for item in operation["responses"].items())}</dl>
<h4>In a shell</h4><pre tabindex="0">{_text(_curl(method, path, operation))}</pre>
</section>"""


def _parameters(parameters: list[Json]) -> str:
    items = "".join(
        f"<dt><code>{_text(one['name'])}</code> in {one['in']}, {_type(one['schema'])}"
        f"{'' if one['required'] else ', optional'}</dt><dd>{_marked(one['description'])}</dd>"
        for one in parameters
    )
    return f"<h4>Parameters</h4><dl>{items}</dl>" if items else ""


def _request(operation: Json) -> str:
    content = operation.get("requestBody", {}).get("content", {})
    return "".join(f"<h4>Body</h4>{_body(*item)}" for item in content.items())


def _body(media_type: str, content: Json) -> str:
    shown = f"<p><code>{media_type}</code>: {_type(content['schema'])}</p>"
    if "example" in content:
        shown += f'<pre tabindex="0">{_example(content["example"])}</pre>'
    return shown


def _response(status: str, response: Json) -> str:
    parts = [f"<dt><strong>{status}</strong> {_marked(response['description'])}</dt>"]
    for name, header in response["headers"].items():
        if "$ref" in header:
            continue  # described once, at the top
        text = f"{_marked(header['description'])} Example: <code>{_text(header['example'])}</code>."
        parts.append(f"<dd>Header <code>{name}</code>: {text}</dd>")
    for media_type, content in response.get("content", {}).items():
        details = [one["value"]["detail"] for one in content.get("examples", {}).values()]
        sentences = "".join(f"<dd>“{_text(one)}”</dd>" for one in details if isinstance(one, str))
        parts.append(f"<dd>{_body(media_type, content)}</dd>{sentences}")
    return "".join(parts)


def _curl(method: str, path: str, operation: Json) -> str:
    """The request as a shell command that can be sent as it is.

    It has no idempotency key, because one works for one request. curl sends no header that is
    empty, so `$PIN_TOKEN` need not be set.
    """
    query = []
    headers = []
    for one in operation.get("parameters", []):
        if one["in"] == "path":
            path = path.replace(f"{{{one['name']}}}", str(one["example"]))
        elif one["in"] == "query":
            query.append(f"{one['name']}={_plain(one['example'])}")
        elif one["name"] == "X-PIN-Token":
            headers.append('-H "X-PIN-Token: $PIN_TOKEN"')
        elif one["name"] != "Idempotency-Key":
            headers.append(f"-H '{one['name']}: {one['example']}'")
    if "security" in operation:
        headers.insert(0, '-H "Authorization: Bearer $TOKEN"')
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        example = content.get("example")
        if isinstance(example, dict):
            example = {key: value for key, value in example.items() if key != "pin_token"}
        if example:
            body = example if isinstance(example, str) else json.dumps(example)
            headers += [f"-H 'Content-Type: {media_type}'", f"--data-binary '{body.rstrip()}'"]
    url = f'"$URL{path}{"?" if query else ""}{"&".join(query)}"'
    verb = [] if method == "GET" else [f"-X {method}"]
    return "curl -s " + " \\\n  ".join([*verb, *headers, url])


def _plain(example: object) -> str:
    return example if isinstance(example, str) else json.dumps(example)


def _schema(name: str, schema: Json) -> str:
    required = schema.get("required", [])
    fields = "".join(
        f"<dt><code>{_text(key)}</code> {_type(shape)}{'' if key in required else ', optional'}"
        f"</dt><dd>{_marked(shape.get('description', ''))}</dd>"
        for key, shape in schema.get("properties", {}).items()
    )
    kind = "" if fields else f"<p>{_type(schema)}</p>"
    about = _prose(schema.get("description", ""))
    return f'<section id="{name}"><h3>{name}</h3>{about}{kind}<dl>{fields}</dl></section>'


def _type(schema: Json) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "enum" in schema:
        return " | ".join(f"<code>{_example(value)}</code>" for value in schema["enum"])
    kind = _text(schema.get("format") or schema.get("type") or "any value")
    if kind == "array":
        kind = f"array of {_type(schema.get('items', {}))}"
    elif values := schema.get("additionalProperties"):
        kind = f"object, each value {_type(values)}"
    return kind + "".join(
        f", {words.format(f'<code>{_text(schema[bound])}</code>')}"
        for bound, words in BOUNDS.items()
        if bound in schema
    )


def _example(value: object) -> str:
    shown = value.rstrip() if isinstance(value, str) and value.endswith("\n") else None
    return _text(shown or json.dumps(value, indent=2, ensure_ascii=False))


def _prose(text: str) -> str:
    return "".join(f"<p>{_marked(part)}</p>" for part in text.split("\n\n") if part)


def _marked(text: str) -> str:
    """Escaped text, with `code` as an element."""
    return CODE.sub(r"<code>\1</code>", escape(text))


def _text(value: object) -> str:
    return escape(str(value))
