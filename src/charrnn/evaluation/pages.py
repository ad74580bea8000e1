"""Pages in one file that need no network and get none.

The policy of a page allows the one script and the one style whose digests it names. What is shown
is data beside them, or text that was escaped.
"""

import base64
import hashlib
import html
import importlib.resources
import json
import re
from collections.abc import Mapping
from typing import Any


def page(template: str, title: str, style: str, script: str, **parts: str) -> str:
  """A template of the folder `page` with its {{title}}, {{policy}} and other parts filled in."""
  parts |= {
    "title": html.escape(title.encode("utf-8", "replace").decode()),
    "policy": _policy(style, script),
    "style": style,
    "script": script,
  }
  # In one pass, so that nothing is looked for in what was put in.
  return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], source(template))


def source(name: str) -> str:
  """A file of the folder `page`."""
  return (importlib.resources.files("charrnn.analysis") / "page" / name).read_text("utf-8")


def _policy(style: str, script: str) -> str:
  style, script = (
    f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'"
    for part in (style, script)
  )
  return (
    f"default-src 'none'; script-src {script}; style-src {style}; base-uri 'none'; "
    "form-action 'none'; require-trusted-types-for 'script'"
  )


def blocks(values: Mapping[str, Any]) -> str:
  """Data by the id that a script finds it under, which no parser takes for anything else."""
  return "\n".join(
    f'<script type="application/json" id="{name}">{plain_json(value)}</script>'
    for name, value in values.items()
  )


def plain_json(value) -> str:
  """JSON in ASCII without a `<`."""
  return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
