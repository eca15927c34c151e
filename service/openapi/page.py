"""The description as a page for people: one document, no script, nothing fetched from elsewhere."""

import base64
import hashlib
import json
import re
from collections.abc import Iterable
from html import escape
from typing import Any, Final

Json = dict[str, Any]

STYLE: Final = """
:root { color-scheme: light dark; --page: #f4f5f7; --card: #fff; --text: #1c2024; --quiet: #59616a;
  --line: #d5d9de; --link: #2747b0; --code: #eef0f3; }
@media (prefers-color-scheme: dark) { :root { --page: #111417; --card: #1b1f24; --text: #e8eaed;
  --quiet: #a2abb5; --line: #3a4149; --link: #9db2ff; --code: #14181c; } }
* { box-sizing: border-box; }
html { scroll-padding-top: 1rem; }
body { margin: 0; padding: 1rem; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; }
main { max-width: 60rem; margin: auto; }
h1 { font-size: 1.6rem; margin: 0 0 0.5rem; }
h2 { font-size: 1.3rem; margin: 2rem 0 0.25rem; }
h3 { font-size: 1.05rem; margin: 0; overflow-wrap: anywhere; }
h4 { font-size: 0.9rem; margin: 1rem 0 0.25rem; color: var(--quiet); }
p { margin: 0.35rem 0; overflow-wrap: anywhere; }
a { color: var(--link); }
code, pre { font: 0.85rem/1.45 ui-monospace, monospace; }
code { overflow-wrap: anywhere; }
pre { background: var(--code); border: 1px solid var(--line); border-radius: 0.4rem; margin: 0;
  padding: 0.6rem; overflow-x: auto; }
nav ul { list-style: none; padding: 0; margin: 0.25rem 0; }
nav li { padding: 0.15rem 0; overflow-wrap: anywhere; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 0.6rem;
  padding: 1rem; margin: 0.75rem 0; }
section:target { border-color: var(--link); outline: 1px solid var(--link); }
.method { display: inline-block; min-width: 4.5em; font-weight: 700; }
dl { margin: 0; }
dt { margin-top: 0.5rem; overflow-wrap: anywhere; }
dd { margin: 0 0 0 1rem; color: var(--quiet); overflow-wrap: anywhere; }
.quiet { color: var(--quiet); }
"""
DIGEST: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS: Final = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{DIGEST}';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
CODE: Final = re.compile(r"`([^`]+)`")
BOUNDS: Final = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "multipleOf": "a multiple of {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "pattern": "like {}",
}


def page(document: Json) -> str:
    """The page for an OpenAPI document."""
    info = document["info"]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(info["title"])}: the API</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{_text(info["title"])} {_text(info["version"])}</h1>
{_prose(info["description"])}
<p>For machines: <a href="/openapi.json">OpenAPI {document["openapi"]}</a>. The lines for a shell
take <code>$URL</code> and <code>$TOKEN</code> from the environment.</p>
<nav aria-label="Contents">{"".join(_index(document, tag) for tag in document["tags"])}
<h4><a href="#schemas">Schemas</a></h4></nav>
{"".join(_group(document, tag) for tag in document["tags"])}
<h2 id="schemas">Schemas</h2>
{"".join(_schema(*item) for item in sorted(document["components"]["schemas"].items()))}
</main>
</body>
</html>
"""


def _operations(document: Json, tag: Json) -> Iterable[tuple[str, str, Json]]:
    """Method, path and operation of each one under a tag."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if tag["name"] in operation["tags"]:
                yield method.upper(), path, operation


def _index(document: Json, tag: Json) -> str:
    items = "".join(
        f'<li><a href="#{operation["operationId"]}"><code>{_heading(method, path)}</code></a></li>'
        for method, path, operation in _operations(document, tag)
    )
    return f"<h4>{_text(tag['name'])}</h4><ul>{items}</ul>"


def _heading(method: str, path: str) -> str:
    return f'<span class="method">{method}</span>{_text(path)}'


def _group(document: Json, tag: Json) -> str:
    found = "".join(_operation(*operation) for operation in _operations(document, tag))
    return f"<h2>{_text(tag['name'])}</h2>{_prose(tag['description'])}{found}"


def _operation(method: str, path: str, operation: Json) -> str:
    name = operation["operationId"]
    token = "An access token is needed." if "security" in operation else "No token is needed."
    return f"""
<section id="{name}" aria-labelledby="{name}-name">
<h3 id="{name}-name"><code>{_heading(method, path)}</code></h3>
<p>{_marked(operation["summary"])}.</p>
{_prose(operation.get("description", ""))}
<p class="quiet">{token}</p>
{_parameters(operation.get("parameters", []))}
{_request(operation)}
<h4>Answers</h4><dl>{"".join(_response(*item) for item in operation["responses"].items())}</dl>
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
            continue  # told of once, at the top
        about = f"{_marked(header['description'])} Such as <code>{_text(header['example'])}</code>"
        parts.append(f"<dd>Header <code>{name}</code>: {about}.</dd>")
    for media_type, content in response.get("content", {}).items():
        told = [one["value"]["detail"] for one in content.get("examples", {}).values()]
        sentences = "".join(f"<dd>“{_text(one)}”</dd>" for one in told if isinstance(one, str))
        parts.append(f"<dd>{_body(media_type, content)}</dd>{sentences}")
    return "".join(parts)


def _curl(method: str, path: str, operation: Json) -> str:
    """The request as a line for a shell."""
    query = []
    headers = []
    for one in operation.get("parameters", []):
        if one["in"] == "path":
            path = path.replace(f"{{{one['name']}}}", str(one["example"]))
        elif one["in"] == "query":
            query.append(f"{one['name']}={one['example']}")
        else:
            headers.append(f"-H '{one['name']}: {one['example']}'")
    if "security" in operation:
        headers.insert(0, '-H "Authorization: Bearer $TOKEN"')
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        if example := content.get("example"):
            body = example if isinstance(example, str) else json.dumps(example)
            headers += [f"-H 'Content-Type: {media_type}'", f"--data-binary '{body.rstrip()}'"]
    url = f'"$URL{path}{"?" if query else ""}{"&".join(query)}"'
    verb = [] if method == "GET" else [f"-X {method}"]
    return " \\\n  ".join(["curl -s", *verb, *headers, url]).replace(
        "curl -s \\\n  ", "curl -s ", 1
    )


def _schema(name: str, schema: Json) -> str:
    required = schema.get("required", [])
    fields = "".join(
        f"<dt><code>{_text(key)}</code> {_type(shape)}{'' if key in required else ', optional'}"
        f"{_default(shape)}</dt><dd>{_marked(shape.get('description', ''))}</dd>"
        for key, shape in schema.get("properties", {}).items()
    )
    kind = "" if fields else f"<p>{_type(schema)}</p>"
    about = _prose(schema.get("description", ""))
    return f'<section id="{name}"><h3>{name}</h3>{about}{kind}<dl>{fields}</dl></section>'


def _default(shape: Json) -> str:
    return f", else <code>{_example(shape['default'])}</code>" if "default" in shape else ""


def _type(schema: Json) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "enum" in schema:
        return " | ".join(f"<code>{_example(value)}</code>" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"array of {_type(schema.get('items', {}))}"
    kind = schema.get("format") or schema.get("type") or "any value"
    return _text(kind) + "".join(
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
    """Text in which `this` is code."""
    return CODE.sub(r"<code>\1</code>", escape(text))


def _text(value: object) -> str:
    return escape(str(value))
