"""YAML whose plain values mean what they look like: 1e-3 is a number, off is a word."""

import re
from pathlib import Path
from typing import Any

import yaml


class _Yaml(yaml.SafeLoader):
    """Plain values as in YAML 1.2; 1:4 is not base 60."""


_Yaml.yaml_implicit_resolvers = {}
for _tag, _form, _first in (
    ("null", r"~|null|None", "~nN"),
    ("bool", r"true|false|True|False", "tfTF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)", "-+.0123456789"),
):
    _Yaml.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_form})$"), list(_first))
_Yaml.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("$"), [""])


def options(path: Path) -> dict[str, Any]:
    """Return the options a file spells, by the names of the fields.

    Raises:
        ValueError: there is no such file, or it is no list of options.
    """
    if not path.is_file():
        raise ValueError(f"expected a YAML file at --config, found none at {path}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"expected YAML in {path}, got a file that is not text") from error
    fields = value(text, str(path))
    if not isinstance(fields, dict):
        raise ValueError(f"expected 'option: value' lines in {path}, got {type(fields).__name__}")
    return {str(name).replace("-", "_"): value for name, value in fields.items()}


def value(text: str, place: str) -> Any:
    """Return what a text spells; `place` names it where it spells nothing.

    Raises:
        ValueError: it is no YAML.
    """
    try:
        return yaml.load(text, _Yaml)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"expected YAML in {place}, got: {' '.join(str(error).split())}") from error
