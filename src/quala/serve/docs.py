"""The API's description as a page that needs no network, unlike the framework's own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from html import escape
from string import Template
from typing import Any

Schema = Mapping[str, Any]

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title API</title>
<link rel="icon" href="data:,">
<style>
:root { --ink: #1d1c1a; --soft: #6a665e; --line: #e3dfd6; --paper: #faf9f5; --accent: #0b6b62; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ece9e1; --soft: #a19c91; --line: #33312c; --paper: #151513; --accent: #6fd0c2; }
}
body { font: 15px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 54rem; margin: 0 auto; padding: 2rem clamp(1rem, 4vw, 2.5rem) 4rem; }
h1, h2 { font-weight: 400; font-family: Charter, Georgia, serif; } h2 { margin-top: 2.5rem; }
a { color: var(--accent); } code, pre { font: 13px/1.5 ui-monospace, monospace; }
pre { overflow-x: auto; padding: 1rem; border: 1px solid var(--line); border-radius: 8px; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: .4rem 1rem .4rem 0;
         border-bottom: 1px solid var(--line); font-weight: 400; }
th { width: 8rem; } td:last-child { width: 13rem; padding-right: 0; } .soft { color: var(--soft); }
</style>
</head>
<body>
<p><a href="./">Demo</a> · <a href="openapi.json">openapi.json</a></p>
<h1>$title $version</h1>
<p class="soft">$summary</p>
$paths
<h1>Types</h1>
$types
</body>
</html>
""")


def docs_html(api: Schema) -> str:
    """Return a page that lists the addresses, their statuses, and the fields of every type."""
    info = api["info"]
    paths = "".join(
        _operation(method, path, operation)
        for path, methods in api["paths"].items()
        for method, operation in methods.items()
    )
    types = "".join(
        _type(name, schema)
        for name, schema in api["components"]["schemas"].items()
        if schema.get("properties")
    )
    return _PAGE.substitute(
        title=escape(info["title"]),
        version=escape(info["version"]),
        summary=escape(info.get("summary", "")),
        paths=paths,
        types=types,
    )


def _operation(method: str, path: str, operation: Schema) -> str:
    rows = []
    if "requestBody" in operation:
        rows.append(("body", "", _named(_json_schema(operation["requestBody"]))))
    for status, response in operation["responses"].items():
        rows.append((status, _prose(response["description"]), _named(_json_schema(response))))
    return (
        f"<h2><code>{method.upper()} {escape(path)}</code></h2>"
        f"<p>{_prose(operation.get('description', ''))}</p>{_table(rows)}"
    )


def _type(name: str, schema: Schema) -> str:
    required = schema.get("required", ())
    rows = []
    for field, facts in schema["properties"].items():
        default = (
            "required" if field in required else f"default {json.dumps(facts.get('default'))}"
        )
        kind = f'{_named(facts)}<br><span class="soft">{escape(default)}</span>'
        rows.append((field, _prose(facts.get("description", "")), kind))
    examples = "".join(
        f"<pre>{escape(json.dumps(example, indent=2))}</pre>"
        for example in schema.get("examples", ())
    )
    about = _prose(schema.get("description", ""))
    return f'<h2 id="{escape(name)}">{escape(name)}</h2><p>{about}</p>{_table(rows)}{examples}'


def _table(rows: list[tuple[str, str, str]]) -> str:
    """Return a table; the first cell is code, the others are HTML."""
    lines = "".join(
        f"<tr><th><code>{escape(name)}</code></th><td>{text}</td><td>{kind}</td></tr>"
        for name, text, kind in rows
    )
    return f'<div class="wide"><table>{lines}</table></div>'


def _prose(text: str) -> str:
    """Return a sentence with its `names` set as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _json_schema(message: Schema) -> Schema:
    content: Schema = message.get("content", {})
    schema: Schema = content.get("application/json", {}).get("schema", {})
    return schema


def _named(schema: Schema) -> str:
    return " or ".join(dict.fromkeys(_names(schema)))


def _names(schema: Schema) -> Iterator[str]:
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        yield f'<a href="#{name}">{name}</a>'
    elif schema.get("type") == "array":
        yield f"list of {_named(schema.get('items', {})) or 'pairs'}"
    else:
        for choice in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
            yield from _names(choice)
        if "type" in schema:
            yield escape(str(schema["type"]))
