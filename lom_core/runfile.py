"""Run files: read, composed, overridden and checked, to a RunConfig.

A run file is YAML, or Python that only assigns literals (``batch_size = 32``): it is parsed, never
executed. ``extends: base.yaml`` starts from other files. An override ``name=value`` names a key by
its full path, by the end of one (``images.patch_size``) or by its leaf alone (``batch_size``).
"""

from __future__ import annotations

import ast
import difflib
import importlib
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from lom_core.component import KINDS, Component
from lom_core.config import RunConfig, Section
from lom_core.errors import ConfigError, UnknownKind, nearest
from lom_core.modality import ModalityConfig
from lom_core.roles import ROLES

SUFFIXES = (".yaml", ".yml", ".py")
FREE = 1000  # levels below a mapping whose keys are the user's own
ROOT = {name: field.annotation for name, field in RunConfig.model_fields.items()}
SECTIONS = {name for name, part in ROOT.items() if Section in getattr(part, "__mro__", ())}

Tree = dict[str, Any]


def load_run(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """The run that a file describes, after overrides; ``module:Class`` kinds are looked up in the
    file's folder and the current one.

    Args:
        path: a ``.yaml``, ``.yml`` or ``.py`` file.
        overrides: ``name=value`` or ``--name=value``, as in YAML; or run files to merge.

    Errors:
        ConfigError: one line for each problem: the key, what was given, what is possible.
    """
    make_importable(Path(path))
    return override(_read(Path(path), {}), overrides)


def override(run: RunConfig | Mapping[str, Any], overrides: Iterable[str] = ()) -> RunConfig:
    """The same from a run, for instance a checkpoint's, or from a tree of plain values."""
    merged = run.model_dump(mode="json") if isinstance(run, RunConfig) else dict(run)
    for text in overrides:
        if "=" not in text and text.endswith(SUFFIXES):
            merged = _read(Path(text), merged)
        else:
            merged = _assign(merged, *_split(text))
    try:
        return RunConfig.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(describe_errors(error, merged)) from None


def make_importable(path: Path) -> None:
    """Put the current folder and that of ``path`` first on ``sys.path``."""
    for folder in (str(Path.cwd()), str(path.resolve().parent)):
        if folder not in sys.path:
            sys.path.insert(0, folder)


def dump(run: RunConfig | Mapping[str, Any]) -> str:
    """The run as YAML with every default filled in; ``load_run`` of it gives the same run. Or a
    part of one, as it is."""
    values = run.model_dump(mode="json") if isinstance(run, RunConfig) else dict(run)
    return str(yaml.dump(values, Dumper=_Dumper, sort_keys=False, width=100))


# --------------------------------------------------------------------------------- YAML 1.2 scalars

# YAML 1.1, which PyYAML follows, reads 1e-4 as text, 1:30 as 90, 010 as 8 and no as False.
_SCALARS = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "int": (r"[-+]?(0|[1-9][0-9_]*)|0x[0-9a-fA-F_]+", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9][0-9_]*|[0-9][0-9_]*\.[0-9_]*)([eE][-+]?[0-9]+)?"
        r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
    "merge": (r"<<", "<"),
}


class _Loader(yaml.SafeLoader):
    """Safe YAML with the scalars of YAML 1.2, in which a key given twice is an error."""

    yaml_implicit_resolvers: ClassVar[dict[Any, Any]] = {}  # type: ignore[misc]  # per class

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"'{key.value}' is given twice", problem_mark=key.start_mark
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes whatever either version of YAML would read as something else than text."""


for _tag, (_pattern, _first) in _SCALARS.items():
    for _class in (_Loader, _Dumper):
        _regex = re.compile(f"^(?:{_pattern})$")
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _regex, list(_first))


def read_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader: plain values only
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: an int of 5000 digits. RecursionError: nesting without end.
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        line = f" line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{where}{line}: {' '.join(problem.split())}") from None


def _read(path: Path, tree: Tree, chain: tuple[Path, ...] = ()) -> Tree:
    """``tree`` with a file, and before it what the file extends, laid over it."""
    file = path.resolve()
    if file in chain:
        circle = " -> ".join(p.name for p in (*chain, file))
        raise ConfigError(f"run files extend one another in a circle: {circle}")
    own = _parse(path, chain[-1] if chain else None)
    bases = own.pop("extends", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{path}: extends: {bases!r} is not a file name or a list of them")
    for base in bases:
        tree = _read(path.parent / base, tree, (*chain, file))
    if path.suffix != ".py":
        return _merge(_spelled(tree), _spelled(own))
    roots = {name: own.pop(name) for name in list(own) if name in ROOT}
    tree = _merge(_spelled(tree), _spelled(roots))
    for name, value in own.items():
        tree = _assign(tree, name, value, f"{path}: ")
    return tree


def _parse(path: Path, extended_by: Path | None) -> Tree:
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path} is no run file: its name must end in {', '.join(SUFFIXES)}")
    try:
        text = path.read_text(encoding="utf8")
    except FileNotFoundError:
        by = f", which {extended_by} extends" if extended_by else ""
        raise ConfigError(f"no such run file: {path}{by} (looked in {Path.cwd()})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    tree = _literals(text, path) if path.suffix == ".py" else read_yaml(text, str(path))
    if tree and isinstance(tree, dict):
        return tree
    given = "is empty" if tree in (None, {}) else f"holds {_shown(tree)}"
    raise ConfigError(f"{path} {given}; possible keys: {', '.join(ROOT)}, extends")


def _literals(text: str, path: Path) -> Tree:
    """The assignments of a Python file, which is not executed."""
    try:
        module = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise ConfigError(f"{path}{f' line {line}' if line else ''}: {error.args[0]}") from None
    found: Tree = {}
    for number, statement in enumerate(module.body):
        where = f"{path} line {statement.lineno}"
        match statement:
            case ast.Expr(ast.Constant(str())) if number == 0:
                continue  # the docstring
            case ast.Assign([ast.Name(name)], value):
                pass
            case ast.AnnAssign(ast.Name(name), _, ast.expr() as value):
                pass
            case _:
                given = ast.unparse(statement).splitlines()[0]
                raise ConfigError(f"{where}: {given!r}: only `name = literal` is read, never run")
        if name in found:
            raise ConfigError(f"{where}: '{name}' is given twice")
        try:
            found[name] = json.loads(json.dumps(ast.literal_eval(value)))  # tuples become lists
        except (ValueError, TypeError):
            raise ConfigError(
                f"{where}: {name} = {ast.unparse(value)} is not a literal; possible: numbers, "
                "text, True, False, None, and lists and dicts of them"
            ) from None
    return found


def _split(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    name = name.strip().removeprefix("--")
    if not equals or not name or name == "extends":
        raise ConfigError(
            f"cannot read '{text}': an override is name=value, for instance batch_size=64, or a "
            f"further run file ({', '.join(SUFFIXES)})"
        )
    return name, read_yaml(value, name)


def _assign(tree: Tree, name: str, value: Any, where: str = "") -> Tree:
    """``tree`` with a value laid over it at the one place that ``name`` can mean."""
    tree = _spelled(_by_name(tree))
    path = _find(name, known_paths(tree), where)
    for key in reversed(path.split(".")):
        value = {key: value}
    return _merge(tree, _spelled(value))


def _by_name(tree: Tree) -> Tree:
    """The tree with a list of modalities as the mapping that paths lead into."""
    listed = tree.get("modalities")
    if not isinstance(listed, list) or not all(isinstance(m, Mapping) for m in listed):
        return tree
    named = {str(m.get("name")): m for m in listed}
    # Where names are missing or double, the list stays as it is and checking the run says so.
    return {**tree, "modalities": named} if len(named) == len(listed) else tree


def _find(name: str, known: Mapping[str, int], where: str) -> str:
    """The path that a name means: a whole one, a section's key, else any component's."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        head, rest = ".".join(parts[:cut]), parts[cut:]
        hits = [p for p in known if f".{p}".endswith(f".{head}") and known[p] >= len(rest)]
        hits = (
            [p for p in hits if p == head]
            or [p for p in hits if p.count(".") == 1 and p.split(".")[0] in SECTIONS]
            or hits
        )
        if len(hits) > 1:
            raise ConfigError(f"{where}{name} is ambiguous: {', '.join(hits)}")
        if hits:
            return ".".join([hits[0], *rest])
    possible = known if "." in name else {path.rpartition(".")[2] for path in known}
    close = difflib.get_close_matches(name, sorted(possible), n=3)
    hint = f"nearest: {', '.join(close)}" if close else "`lom config show RUN` lists the names"
    raise ConfigError(f"{where}{name}: unknown name; {hint}")


def known_paths(tree: Mapping[str, Any]) -> dict[str, int]:
    """Dotted path -> how many levels of keys below it are free; those of this run's components
    included."""
    known: dict[str, int] = {}
    for name, annotation in ROOT.items():
        _visit(annotation, tree.get(name), name, known)
    return known


def _spelled(tree: Mapping[str, Any]) -> Tree:
    """The tree with each component that is given by kind alone as ``{kind: ...}``."""
    return {k: _visit(ROOT[k], value, k, {}) if k in ROOT else value for k, value in tree.items()}


def _visit(annotation: Any, value: Any, path: str, known: dict[str, int]) -> Any:
    """Note the paths at and below a field in ``known``; return its value spelled out."""
    part, many = _part(annotation)
    if part is None:
        takes_mapping = dict in {get_origin(a) for a in (annotation, *get_args(annotation))}
        _note_free(value, path, known, FREE if takes_mapping or annotation is Any else 0)
        return value
    if many:
        known[path] = 1
        if not isinstance(value, Mapping):
            return value
        return {k: _visit(part, item, f"{path}.{k}", known) for k, item in value.items()}
    cls: type[BaseModel] | None = part
    if issubclass(part, Component):
        value = {"kind": value} if isinstance(value, str) else value
        cls = _component_class(part, value)
        if value is not None:
            known[f"{path}.kind"] = 0
    _note_free(None if cls else value, path, known, 0 if cls else FREE)
    spelled = dict(value) if isinstance(value, Mapping) else {}
    for name, field in cls.model_fields.items() if cls else ():
        item = _visit(field.annotation, spelled.get(name), f"{path}.{name}", known)
        if name in spelled:
            spelled[name] = item
    return spelled if isinstance(value, Mapping) else value


def _note_free(value: Any, path: str, known: dict[str, int], free: int) -> None:
    """Note a path, and those of a free mapping's keys."""
    known[path] = free
    for key, item in value.items() if isinstance(value, Mapping) else ():
        _note_free(item, f"{path}.{key}", known, FREE)


def _part(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The section or component that a field holds, and whether it holds a mapping of them."""
    union = get_origin(annotation) in (Union, UnionType)
    for option in get_args(annotation) if union else (annotation,):
        many = get_origin(option) is dict  # a list's items have no path of their own
        part = get_args(option)[1] if many else option
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part, many
    return None, False


def _component_class(base: type[Component], value: Any) -> type[Component] | None:
    """The class that a mapping configures; None when it has none or takes any keys."""
    kind = value.get("kind", base.kind) if isinstance(value, Mapping) else ""
    if not isinstance(kind, str) or not kind:
        return None
    try:
        if ":" not in kind:
            return KINDS.get(base.role, kind)
        module, _, name = kind.partition(":")
        found = getattr(importlib.import_module(module), name, None)
    except (UnknownKind, ModuleNotFoundError):
        return None  # checking the run says what is missing
    return found if isinstance(found, type) and issubclass(found, Component) else None


def _merge(base: Mapping[str, Any], new: Mapping[str, Any]) -> Tree:
    """``new`` over ``base``: mappings merge, a component of another kind and all else replaces."""
    if "kind" in new and new["kind"] != base.get("kind", ModalityConfig.kind):
        return dict(new)
    merged = dict(base)
    for key, value in new.items():
        both = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        merged[key] = _merge(base[key], value) if both else value
    return merged


_NOUNS = {"int": "a whole number", "float": "a number", "bool": "true or false", "string": "text"}
_NOUNS |= {"list": "a list", "tuple": "a list", "dict": "a mapping", "model": "a mapping"}
_TYPE = re.compile(r"(constrained-)?(str|int|float)|bool|none|.*\[.*", re.DOTALL)
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def describe_errors(error: ValidationError, tree: Mapping[str, Any] | None = None) -> str:
    """One line for each problem: the dotted key, what was given, what is possible. With ``tree``,
    which was checked, unknown keys are compared with those of its components."""
    problems: dict[str, tuple[Any, list[str], list[str]]] = {}
    known = known_paths(tree or {})
    for item in error.errors(include_url=False):
        # The members of a union fail one by one, under names like `list[str]`: one problem.
        union = [i for i, key in enumerate(item["loc"]) if _TYPE.fullmatch(str(key))]
        path = ".".join(str(key) for key in item["loc"][: union[0] if union else None])
        given, nouns, messages = problems.setdefault(path, (item["input"], [], []))
        noun, _, problem = item["type"].partition("_")
        if noun in _NOUNS and problem in ("type", "parsing", "from_float"):
            nouns += [_NOUNS[noun]] if _NOUNS[noun] not in nouns else []
        else:
            messages.append(_message(item, path, known))
    lines = []
    for path, (given, nouns, messages) in problems.items():
        told = [f"{_shown(given)} is not {' or '.join(nouns)}"] if nouns else messages
        lines += [f"{path}: {text}" if path else text for text in told]
    return "\n".join(lines)


def _message(item: Any, path: str, known: Mapping[str, int]) -> str:
    kind, given, context = item["type"], _shown(item["input"]), item.get("ctx", {})
    if kind == "extra_forbidden":
        return "unknown key" + _possible(path, known)
    if kind == "missing":
        role = path.rpartition(".")[2]
        installed = f"; {KINDS.installed(role)}" if role in ROLES else ""
        return f"missing, and it has no default{installed}"
    if kind == "literal_error":
        close = nearest(str(item["input"]), re.findall(r"'([^']*)'", context["expected"]))
        return f"{given} is not possible{close}; possible: {context['expected']}"
    if kind == "too_short":
        return f"{given} is too short: it needs at least {context['min_length']}"
    for bound, words in _BOUNDS.items():
        if bound in context:
            return f"{given} is not possible: it must be {words} {context[bound]:g}"
    text = " ".join(str(item["msg"]).removeprefix("Value error, ").split())
    return text if kind == "value_error" else f"{given}: {text[0].lower()}{text[1:]}"


def _possible(path: str, known: Mapping[str, int]) -> str:
    parent, _, key = path.rpartition(".")
    siblings = [p.rpartition(".")[2] for p in known if p.rpartition(".")[0] == parent]
    homes = [p for p in known if p.endswith(f".{key}") and p.split(".")[0] in SECTIONS]
    if homes and not parent:
        return f"; did you mean '{homes[0]}'?"
    return nearest(key, siblings) or (f"; possible: {', '.join(siblings)}" if siblings else "")


def _shown(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
