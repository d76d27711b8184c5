"""Find, load and describe the installed plugins.

A plugin is a module behind an entry point of group ``lom``. We load each entry point ourselves,
under its distribution's name: pluggy's own loader skips same-named plugins silently, gives up at
the first failing import and lets misspelt hooks pass.

``LOM_PLUGINS`` restricts what is loaded: a comma-separated list of distributions, empty for none.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field
from importlib import metadata

import pluggy
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from lom_core import hookspecs
from lom_core.component import KINDS, Component
from lom_core.errors import PluginError

GROUP = "lom"
HOOKS = [name for name in dir(hookspecs) if name.startswith("lom_")]

# What to say when a kind of ours is asked for and its plugin is not installed.
FIRST_PARTY = {
    "lom-galaxies": ("galaxy_images", "galaxy_files", "galaxy_samples", "image_patches"),
    "lom-spectra": (
        *("spectra", "spectrum_windows"),
        *("spectrum_files", "spectrum_samples", "sndata_spectra"),
    ),
    "lom-midi": (
        *("midi", "exponential", "remi", "miditok", "midi_files", "notes_table", "maestro"),
        *("augmented_midi", "midi_samples", "piano_tasks"),
    ),
    "lom-climate": (
        *("climate_grid", "grid_patches", "sphere_time", "climatology", "forecast"),
        *("climate_files", "climate_text", "climate_samples"),
    ),
    "lom-timeseries": (
        *("light_curve", "light_curve_epochs", "time_and_band", "astromer_time"),
        *("astromer_masked", "astromer_records", "light_curve_files", "kepler_files"),
        *("light_curve_samples", "series", "ecg", "series_patches", "ecg_files", "ptbxl"),
        *("ucr_files", "augmented_series", "ecg_samples"),
    ),
    "lom-text": (
        *("text", "text_bytes", "tokenizer_json"),
        *("text_files", "jsonl", "text_samples"),
    ),
}


@dataclass
class Plugin:
    """One installed plugin: where it comes from, what it provides, or why it does not load."""

    distribution: str
    version: str
    entry_point: str
    api: str = ""
    kinds: list[tuple[str, str]] = field(default_factory=list)
    error: str = ""


class Plugins:
    """The installed plugins, loaded at the first question (KINDS asks)."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager("lom")
        self.manager.add_hookspecs(hookspecs)
        self.found: list[Plugin] = []

    def load(self) -> None:
        """Import every allowed entry point; one that fails is noted, warned of, and left out."""
        from lom_core import builtin

        self._register(builtin, Plugin("lom-core", metadata_version("lom-core"), "builtin"))
        for entry_point in _entry_points():
            dist = entry_point.dist
            assert dist is not None  # entry points found through metadata always know theirs
            plugin = Plugin(dist.name, dist.version, entry_point.name, _api(dist))
            try:
                _check_api(plugin)
                self._register(entry_point.load(), plugin)
            except Exception as error:  # noqa: BLE001  an import may fail in any way; others go on
                plugin.error = f"{type(error).__name__}: {error}"
                plugin.kinds.clear()
                KINDS.drop(plugin.distribution)
                self.found.append(plugin)
                warnings.warn(
                    f"plugin {plugin.distribution} {plugin.version} is left out: {plugin.error}",
                    stacklevel=2,
                )

    def _register(self, module: object, plugin: Plugin) -> None:
        marked = [h for h in dir(module) if hasattr(getattr(module, h), "lom_impl")]
        if not marked:
            raise PluginError(
                f"{_name(module)} has no hook: write a function lom_register(register) in it, "
                "under @lom_core.hookimpl"
            )
        unknown = [hook for hook in marked if hook not in HOOKS]
        if unknown:
            raise PluginError(
                f"unknown hook {', '.join(unknown)}; the hooks are {', '.join(HOOKS)}"
            )
        self.manager.register(module, name=f"{plugin.distribution}:{plugin.entry_point}")

        def register(cls: type[Component]) -> None:
            KINDS.add(cls, plugin.distribution)
            plugin.kinds.append((cls.role, cls.kind))

        others = [p for p in self.manager.get_plugins() if p is not module]
        self.manager.subset_hook_caller("lom_register", others)(register=register)
        self.found.append(plugin)

    def hint(self, role: str, kind: str) -> str:
        """What would bring a kind that is not installed."""
        for plugin in self.found:
            if plugin.error and kind in FIRST_PARTY.get(plugin.distribution, (kind,)):
                return f"; {plugin.distribution} is installed but does not load: {plugin.error}"
        for distribution, kinds in FIRST_PARTY.items():
            if kind in kinds:
                return f"; `pip install {distribution}` brings it"
        return ""


def _name(module: object) -> str:
    return str(getattr(module, "__name__", module))


def _entry_points() -> list[metadata.EntryPoint]:
    allowed = os.environ.get("LOM_PLUGINS")
    names = None if allowed is None else {canonicalize_name(n.strip()) for n in allowed.split(",")}
    found = {}
    for entry_point in metadata.entry_points(group=GROUP):
        dist = entry_point.dist
        if dist is not None and (names is None or canonicalize_name(dist.name) in names):
            found[dist.name, entry_point.name] = entry_point
    return [found[key] for key in sorted(found)]


def _api(dist: metadata.Distribution) -> str:
    """The range of lom-core that a distribution asks for."""
    for line in dist.requires or ():
        requirement = Requirement(line)
        if canonicalize_name(requirement.name) == "lom-core":
            return str(requirement.specifier)
    return ""


def _check_api(plugin: Plugin) -> None:
    ours = metadata_version("lom-core")
    if not Requirement(f"lom-core{plugin.api}").specifier.contains(Version(ours), prereleases=True):
        raise PluginError(
            f"needs lom-core{plugin.api}, installed is {ours}; "
            f"`pip install -U lom-core {plugin.distribution}`"
        )


def metadata_version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "0.0.0"


PLUGINS = Plugins()
KINDS.loader = PLUGINS.load
KINDS.hint = PLUGINS.hint


def installed_plugins() -> list[Plugin]:
    """Every plugin found, loaded or not, the core's own kinds first."""
    KINDS.items()  # loads them
    return list(PLUGINS.found)
