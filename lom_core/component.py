"""Component: the base of everything a plugin adds.

A component is a frozen pydantic model with a *role* (what it is for) and a *kind* (which one it
is). A run file names it by kind, ``{kind: fourier, n_frequencies: 32}``, or just ``fourier``; user
code that is not installed is named by its import path, ``my_module:MyPosition``.

Component configs are cheap to import. What they configure is made in ``build``, which is the only
place that may import torch, astropy and the like.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidatorFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from lom_core.errors import ConfigError, PluginError, UnknownKind, nearest


class Component(BaseModel):
    """Base of all components.

    Subclass a role (:mod:`lom_core.roles`) with a ``kind`` of your own::

        class Wavelet(Position, kind="wavelet"):
            levels: int = 4

            def build(self, n_embd: int, width: int) -> "torch.nn.Module": ...

    Errors:
        UnknownKind: the kind is not installed; lists the installed ones and the nearest name.
        ConfigError: an import path leads nowhere, or to something that is no such component.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        polymorphic_serialization=True,
        protected_namespaces=(),
        ser_json_inf_nan="constants",  # or JSON would turn them into null
    )

    role: ClassVar[str] = ""
    kind: ClassVar[str] = ""
    takes: ClassVar[str] = ""
    """The field that ``kind:something`` fills: with "algorithm", ``miditok:REMI`` is a kind."""

    def __init_subclass__(
        cls, *, role: str = "", kind: str = "", takes: str = "", **kwargs: Any
    ) -> None:
        super().__init_subclass__(**kwargs)
        cls.takes = takes
        if role:
            cls.role = role
        cls.kind = kind  # a subclass without a kind of its own is abstract, or named by its path

    @classmethod
    def adapt(cls, path: str, target: Any, fields: Mapping[str, Any]) -> Component:
        """Make a component of user code that is none (a plain torch Dataset, say)."""
        raise ConfigError(
            f"{path} is no {cls.role}: make it a subclass of lom_core.{cls.role.title()}"
        )

    @property
    def tag(self) -> str:
        """What names this component in a run file: its kind, or its import path."""
        return self.kind or f"{type(self).__module__}:{type(self).__qualname__}"

    @model_validator(mode="wrap")
    @classmethod
    def _resolve(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        if isinstance(value, str):
            value = {"kind": value}
        if not isinstance(value, Mapping):
            return handler(value)
        fields = dict(value)
        kind = fields.pop("kind", cls.kind)
        kind = "" if kind is None else kind
        if not isinstance(kind, str):
            raise ConfigError(f"kind: {kind!r} is no name of a kind; {KINDS.installed(cls.role)}")
        if not kind and cls.__subclasses__() and _is_role(cls):
            raise ConfigError(f"{_a(cls.role)} needs a kind; {KINDS.installed(cls.role)}")
        family, _, argument = kind.partition(":")
        if argument and (known := KINDS.taking(cls.role, family)) is not None:
            kind, fields = family, {**fields, known.takes: argument}
        if kind == cls.kind:
            return handler(fields)
        found = _import(cls, kind, fields) if ":" in kind else KINDS.get(cls.role, kind)
        if isinstance(found, Component):
            return found
        if found is cls:
            return handler(fields)
        return found.model_validate(fields)

    @model_serializer(mode="wrap")
    def _with_kind(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"kind": self.tag, **handler(self)}


def _a(role: str) -> str:
    return f"an {role}" if role[:1] in "aeiou" else f"a {role}"


def _is_role(cls: type[Component]) -> bool:
    return Component in cls.__bases__


def _import(base: type[Component], path: str, fields: Mapping[str, Any]) -> Any:
    """The class behind ``module:Class``, or what the role's ``adapt`` makes of it."""
    module_name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (TypeError, ValueError):  # a relative name, or none
        raise ConfigError(f"{path} is no import path: write package.module:Class") from None
    except ModuleNotFoundError as error:
        if error.name != module_name.split(".")[0] and error.name != module_name:
            raise  # the module was found, something that it imports was not
        raise ConfigError(
            f"{path}: no module named '{module_name}'; it must be importable from here "
            "(the folder of the run file and the current folder are searched)"
        ) from None
    target = getattr(module, attribute, None)
    if target is None:
        raise ConfigError(
            f"{path}: {module_name} has no '{attribute}'{nearest(attribute, dir(module))}"
        )
    role = next(c for c in base.__mro__ if c.__dict__.get("role") or _is_role(c))
    if isinstance(target, type) and issubclass(target, Component):
        if not issubclass(target, role):
            raise ConfigError(f"{path} is {_a(target.role)}, not {_a(base.role)}")
        return target
    return base.adapt(path, target, fields)


class Kinds:
    """All known (role, kind) pairs. ``loader`` fills it, once, at the first question."""

    def __init__(self) -> None:
        self._classes: dict[tuple[str, str], tuple[type[Component], str]] = {}
        self.loader: Callable[[], None] | None = None
        self.hint: Callable[[str, str], str] = lambda role, kind: ""

    def add(self, cls: type[Component], distribution: str) -> None:
        """Register a class; a kind that another class already has is an error, never last-wins."""
        if not (isinstance(cls, type) and issubclass(cls, Component)):
            raise PluginError(
                f"{distribution}: register() takes subclasses of lom_core's roles, not {cls!r}"
            )
        if not cls.role or not cls.kind:
            raise PluginError(
                f"{distribution}: {cls.__name__} has no {'kind' if cls.role else 'role'}; write "
                f"class {cls.__name__}(Role, kind='...')"
            )
        known = self._classes.get((cls.role, cls.kind))
        if known is not None and known[0] is not cls:
            raise PluginError(
                f"{cls.role} '{cls.kind}' is provided twice, by {known[1]} and by {distribution}; "
                "uninstall one of them or leave it out of LOM_PLUGINS"
            )
        self._classes[cls.role, cls.kind] = (cls, distribution)

    def drop(self, distribution: str) -> None:
        """Forget everything that a distribution registered (its hook failed half way)."""
        for key in [k for k, v in self._classes.items() if v[1] == distribution]:
            del self._classes[key]

    def clear(self) -> None:
        self._classes.clear()

    def get(self, role: str, kind: str) -> type[Component]:
        self._load()
        if (role, kind) in self._classes:
            return self._classes[role, kind][0]
        raise UnknownKind(
            f"unknown {role} '{kind}'{nearest(kind, self.names(role))}; "
            f"{self.installed(role)}{self.hint(role, kind)}"
        )

    def taking(self, role: str, kind: str) -> type[Component] | None:
        """The class of a kind that takes an argument after a colon."""
        self._load()
        found, _ = self._classes.get((role, kind), (None, ""))
        return found if found is not None and found.takes else None

    def names(self, role: str) -> list[str]:
        self._load()
        return sorted(kind for r, kind in self._classes if r == role)

    def items(self) -> list[tuple[str, str, str]]:
        """(role, kind, distribution) of everything, sorted."""
        self._load()
        return sorted((role, kind, dist) for (role, kind), (_, dist) in self._classes.items())

    def installed(self, role: str) -> str:
        return f"installed: {', '.join(self.names(role)) or 'none'}"

    def _load(self) -> None:
        if self.loader is not None:
            loader, self.loader = self.loader, None
            loader()


KINDS = Kinds()

__all__ = ["KINDS", "Component", "Kinds"]
