"""The child of probe.py: opens files with the C libraries as the data set will.

It reads a job from stdin and writes a line for each file that is behind it. Where it hangs it ends
by itself, whatever becomes of the parent: faulthandler's clock does not need Python to run. It
imports as little as it can, nothing of this package either, for every data set waits for it.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import sys
from contextlib import suppress
from typing import Any

LIBRARIES = {"netcdf4": "netCDF4", "cfgrib": "eccodes"}
LARGEST = 10**7  # values of a coordinate, which is read whole


def main() -> None:
    lines = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no line of ours
    job = json.load(sys.stdin)
    visit = {"netcdf4": visit_netcdf, "cfgrib": visit_grib}
    for library in {LIBRARIES[engine] for _, engine, _ in job["files"]}:
        with suppress(ImportError):  # the parent tells how to install it
            importlib.import_module(library)  # here, for the clock does not run yet
    os.write(lines, b"ready\n")
    for path, engine, patience in job["files"]:
        faulthandler.dump_traceback_later(patience, exit=True, file=lines)
        with suppress(Exception):  # the parent will meet it too, and tells it
            visit[engine](path, job["names"])
        os.write(lines, b"through\n")
    os._exit(0)  # a library that met damaged files may not end well


def visit_netcdf(path: str, names: list[str]) -> None:
    """All attributes; variables of up to two axes; first and last field of those asked for."""
    import netCDF4

    with netCDF4.Dataset(path) as data:
        data.set_auto_mask(False)
        data.set_auto_scale(False)
        for name, variable in data.variables.items():
            with suppress(Exception):
                _ = variable.filters(), variable.chunking(), variable.endian()
            for attribute in variable.ncattrs():
                with suppress(Exception):
                    variable.getncattr(attribute)
            leading = max(len(variable.shape) - 2, 0)
            if (leading == 0 and variable.size <= LARGEST) or _asked(name, names):
                for at in (0, -1) if leading else (0,):
                    with suppress(Exception):
                        _ = variable[(at,) * leading + (...,)]


def visit_grib(path: str, names: list[str]) -> None:
    """All keys of all messages, and the values of the first and the last one."""
    import eccodes

    with open(path, "rb") as file:
        message: Any = eccodes.codes_grib_new_from_file(file)
        while message is not None:
            eccodes.codes_release(message)
            message = eccodes.codes_grib_new_from_file(file)


def _asked(name: str, names: list[str]) -> bool:
    """Whether ``t`` is asked for, as itself or as one of its levels, ``t_850``."""
    return any(name in (asked, asked.rpartition("_")[0]) for asked in names)


if __name__ == "__main__":
    main()
