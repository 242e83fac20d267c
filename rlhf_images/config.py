"""Configs: YAML in, frozen dataclasses out, and every mistake answered in one line.

A config class is a plain frozen dataclass whose fields are its hyperparameters. `load` reads a YAML file, applies
``key.sub=value`` overrides, and refuses unknown, duplicate and ill-typed keys with the nearest right name.
"""

import dataclasses
import difflib
import json
import math
import re
import reprlib
import types
import typing
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from .errors import BadInput

Count = typing.Annotated[int, Field(ge=1)]
Several = typing.Annotated[int, Field(ge=2)]
NonNegative = typing.Annotated[int, Field(ge=0)]
Positive = typing.Annotated[float, Field(gt=0)]
Weight = typing.Annotated[float, Field(ge=0)]
T = typing.TypeVar("T")
Fraction = typing.Annotated[float, Field(ge=0, le=1)]


class _Loader(yaml.SafeLoader):
    """Safe YAML in which ``5e-5`` is a number and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping of ``node``; a duplicate key is a `yaml.YAMLError`."""
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.YAMLError(f"a list or section as a key (line {key_node.start_mark.line + 1})")
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.YAMLError(f"key '{key}' is given twice (line {key_node.start_mark.line + 1})")
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)$"),
    list("-+0123456789."),
)


def load(kind: type[T], file: str | Path, overrides: Sequence[str] = ()) -> T:
    """Return the config of class ``kind`` that YAML ``file`` describes, with ``key.sub=value`` overrides applied.

    A path that does not exist is looked up among the configs shipped with the package (``digits/finetune.yaml``).
    Raises `BadInput` naming the file, the key and the nearest right name.
    """
    tree = _parse(find(file).read_bytes(), str(file))
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise BadInput(f"{file}: expected 'key: value' lines, found a {type(tree).__name__}")
    for override in overrides:
        _apply(tree, override)
    return build(kind, tree, str(file))


def build(kind: type[T], tree: dict[str, Any], source: str) -> T:
    """Return dataclass ``kind`` from a tree of plain values; ``source`` names their origin in errors."""
    _refuse_unknown(kind, tree, source, "")
    try:
        _refuse_foreign(tree, source, "")
        return TypeAdapter(kind).validate_json(json.dumps(tree), strict=True)
    except RecursionError:
        raise BadInput(f"{source}: a value that contains itself, or is nested too deeply") from None
    except ValidationError as error:
        raise BadInput(f"{source}: {_reason(error, tree)}") from None


def find(file: str | Path) -> Path:
    """Return the path of config ``file``: as given, or among the package's own."""
    path = Path(file)
    if path.is_file():
        return path
    inside = str(file).removeprefix("configs/")
    packaged = Path(str(resources.files("rlhf_images"))) / "configs"
    for root in (packaged, Path(__file__).parents[1] / "configs"):
        if (root / inside).is_file():
            return root / inside
    raise BadInput(f"{file}: no such config; shipped ones: {', '.join(shipped()) or 'none'}")


def shipped() -> list[str]:
    """Return the names of the configs that come with the package, such as ``digits/finetune.yaml``."""
    for root in (Path(str(resources.files("rlhf_images"))) / "configs", Path(__file__).parents[1] / "configs"):
        if root.is_dir():
            found = (path.relative_to(root) for path in root.rglob("*.yaml"))
            return sorted(str(path) for path in found if path.parts[0] != "accelerate")  # its launcher's, not ours
    return []


def plain(config: Any) -> dict[str, Any]:
    """Return a config as plain JSON values, for `run.json`, reports and comparisons."""
    return typing.cast(dict[str, Any], json.loads(TypeAdapter(type(config)).dump_json(config)))


def changes(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return ``before→after`` by the dotted name of each field in which two plain configs differ."""
    found = dict[str, str]()
    for key in sorted(before.keys() | after.keys(), key=lambda key: (key != "name", key)):  # which section it is first
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found |= changes(old, new, f"{prefix}{key}.")
        elif old != new:
            found[f"{prefix}{key}"] = f"{json.dumps(old)}→{json.dumps(new)}"
    return found


def differences(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> list[str]:
    """Return ``key before→after`` for each field in which two plain configs differ."""
    return [f"{key} {change}" for key, change in changes(before, after, prefix).items()]


def fields_of(kind: Any, prefix: str = "") -> list[str]:
    """Return the dotted names of every field of config class ``kind`` that is no section, and of optional sections."""
    found = []
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint, name = hints[field.name], f"{prefix}{field.name}"
        parts = typing.get_args(hint) or (hint,)
        sections = [part for part in parts if dataclasses.is_dataclass(part)]
        found += [name] if len(sections) < len(parts) else []
        for section in sections:
            found += fields_of(section, f"{name}.")
    return list(dict.fromkeys(found))


def _parse(text: str | bytes, source: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadInput(f"{source}: {' '.join(str(error).split())}") from None


def _apply(tree: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise BadInput(f"override '{override}': expected key.sub=value")
    *parents, last = name.split(".")
    for parent in parents:
        inner = tree.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise BadInput(f"override '{override}': '{parent}' is a value, not a section")
        tree = inner
    tree[last] = _parse(text, f"override '{override}'")


def _refuse_unknown(kind: Any, tree: Any, source: str, prefix: str) -> None:
    kind = _section(kind, tree, source, prefix)
    if kind is None:
        return
    fields = {field.name: field for field in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind, include_extras=True)
    for key, value in tree.items():
        if key not in fields:
            raise BadInput(f"{source}: unknown key '{prefix}{key}'; {_nearest(key, list(fields))}")
        _refuse_unknown(hints[key], value, source, f"{prefix}{key}.")


def _refuse_foreign(tree: Any, source: str, key: str) -> None:
    """Refuse what YAML can say and JSON cannot: dates, bytes, sets, .nan, .inf, and keys that are no text."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if not isinstance(name, str):
                raise BadInput(f"{source}: key '{key}{name}' is no text; put it in quotes")
            _refuse_foreign(value, source, f"{key}{name}.")
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            _refuse_foreign(value, source, f"{key}{number}.")
    elif not isinstance(tree, str | int | float | None) or (isinstance(tree, float) and not math.isfinite(tree)):
        raise BadInput(f"{source}: {key[:-1]}: {tree} is neither text nor a finite number")


def _reason(error: ValidationError, tree: Any) -> str:
    """Return the first mistake as ``key: reason``; of a union's readings of a value, those that got furthest.

    Readings as a section of another ``name`` are none.
    """
    found = error.errors()
    others = {one["loc"][:-1] for one in found if one["type"] == "literal_error" and one["loc"][-1] == "name"}
    meant = [one for one in found if not any(one["loc"][: len(other)] == other for other in others)] or found
    mistakes = [(_key(mistake["loc"], mistake["type"] == "missing", tree), mistake) for mistake in meant]
    key, first = max(mistakes, key=lambda pair: len(pair[0]))
    reasons = dict.fromkeys(mistake["msg"].removeprefix("Value error, ") for k, mistake in mistakes if k == key)
    reason = " or ".join([next(iter(reasons)), *(r.removeprefix("Input should be ") for r in list(reasons)[1:])])
    value = "" if isinstance(first["input"], dict) else f", got {reprlib.repr(first['input'])}"
    return f"{'.'.join(key) or 'config'}: {reason}{value}"


def _key(loc: tuple[int | str, ...], missing: bool, tree: Any) -> tuple[str, ...]:
    """Return a pydantic location as the config's own key, without the tags of unions."""
    names = []
    for part in loc:
        if (isinstance(tree, dict) and part in tree) or (isinstance(tree, list) and part in range(len(tree))):
            names.append(str(part))
            tree = typing.cast(Any, tree)[part]
    return (*names, str(loc[-1])) if missing else tuple(names)


def _nearest(name: Any, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"


def _section(kind: Any, tree: Any, source: str, prefix: str) -> Any:
    """Return the dataclass that ``tree`` should fill, or None where it is a plain value. Refuses an unknown tag."""
    if not isinstance(tree, dict):
        return None
    if typing.get_origin(kind) is typing.Annotated:
        kind = typing.get_args(kind)[0]
    if dataclasses.is_dataclass(kind):
        return kind
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        members = [member for member in typing.get_args(kind) if dataclasses.is_dataclass(member)]
        if len(members) < 2:
            return members[0] if members else None
        tags = {str(_tag(member)): member for member in members}
        name = str(tree.get("name", ""))
        if name not in tags:
            raise BadInput(f"{source}: {prefix}name: no '{name}'; {_nearest(name, list(tags))}")
        return tags[name]
    return None


def _tag(kind: Any) -> str | None:
    """Return the value of a dataclass's ``name: Literal[…]`` field, by which a union tells its members apart."""
    name = typing.get_type_hints(kind).get("name")
    return typing.get_args(name)[0] if typing.get_origin(name) is typing.Literal else None
