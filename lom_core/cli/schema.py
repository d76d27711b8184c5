"""The JSON schema of run files, in which each role lists the installed kinds."""

from __future__ import annotations

from itertools import chain
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from lom_core.component import KINDS, Component
from lom_core.config import RunConfig
from lom_core.modality import ModalityConfig
from lom_core.roles import ROLES

Schema = dict[str, Any]


def schema() -> Schema:
    """The schema of RunConfig; ``$defs`` holds one definition per section, role and kind."""
    roles: list[type[Component]] = [ModalityConfig, *ROLES.values()]
    kinds = {cls: [KINDS.get(cls.role, kind) for kind in KINDS.names(cls.role)] for cls in roles}
    models: set[type[BaseModel]] = {RunConfig, *roles, *chain.from_iterable(kinds.values())}
    refs, joint = models_json_schema([(model, "validation") for model in models])
    definitions: Schema = joint["$defs"]
    names = {model: ref["$ref"].rpartition("/")[2] for (model, _), ref in refs.items()}
    for role, found in kinds.items():
        options = []
        for kind in found:
            # A role that is a kind itself gives its name to the choice between all kinds.
            name = f"{role.role}.{kind.kind}" if kind is role else names[kind]
            definitions[name] = _with_kind(definitions[names[kind]], kind, kind is role)
            options.append(name)
        definitions[names[role]] = _either(role, options, [kind.kind for kind in found])
    run = definitions.pop(names[RunConfig])
    modality = {"$ref": f"#/$defs/{names[ModalityConfig]}"}
    run["properties"]["modalities"] = {
        "anyOf": [
            {"type": "object", "additionalProperties": modality, "minProperties": 1},
            {"type": "array", "items": modality, "minItems": 1},
        ]
    }
    file = {"type": "string"}
    run["properties"]["extends"] = {"anyOf": [file, {"type": "array", "items": file}]}
    run.pop("required", None)  # what a file leaves out, the files that it extends may hold
    definitions = dict(sorted(definitions.items()))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **run, "$defs": definitions}


def _with_kind(fields: Schema, cls: type[Component], default: bool) -> Schema:
    """One kind: its fields and its name, which only the role's default kind may leave out."""
    required = [name for name in fields.get("required", []) if name != "name"]
    return {
        **fields,
        "properties": {"kind": {"const": cls.kind}, **fields.get("properties", {})},
        "required": required if default else ["kind", *required],
    }


def _either(cls: type[Component], names: list[str], kinds: list[str]) -> Schema:
    """A role: one of the installed kinds, a kind's name alone, or somebody's own class."""
    own = r"^[\w.]+:[\w.]+$"
    refs = [{"$ref": f"#/$defs/{name}"} for name in names]
    by_path = {"type": "object", "properties": {"kind": {"pattern": own}}, "required": ["kind"]}
    by_name = {"anyOf": [{"enum": kinds}, {"type": "string", "pattern": own}]}
    return {"title": cls.role, "oneOf": [*refs, by_path, by_name]}
