"""``lom plugins new NAME``: a complete plugin, written from the files in ``template``."""

from lom_core.scaffold.write import write_plugin

__all__ = ["write_plugin"]
