"""The child of probe.py: opens files with the C libraries as the data set will.

It reads a job from stdin and writes a line for each file that is behind it. Where it hangs it ends
by itself, whatever becomes of the parent: faulthandler's clock does not need Python to run. It
imports as little as it can, nothing of this package either, for every data set waits for it.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import logging
import os
import sys
from contextlib import suppress
from typing import Any

LIBRARIES = {"netcdf4": ["netCDF4"], "cfgrib": ["xarray", "cfgrib"]}
LARGEST = 10**7  # values of a coordinate, which is read whole


def main() -> None:
    lines = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no line of ours
    job = json.load(sys.stdin)
    visit = {"netcdf4": visit_netcdf, "cfgrib": visit_grib}
    for engine in {engine for _, engine, _ in job["files"]}:
        for library in LIBRARIES[engine]:
            with suppress(ImportError):  # the parent tells how to install it
                importlib.import_module(library)  # here, for the clock does not run yet
    os.write(lines, b"ready\n")
    for path, engine, patience in job["files"]:
        faulthandler.dump_traceback_later(patience, exit=True, file=lines)
        try:
            with suppress(Exception):  # the parent will meet it too, and tells it
                visit[engine](path, job["names"], job["filter_by_keys"])
        except Refused as error:
            os.write(lines, f"refused: {error}\n".encode())
            break
        os.write(lines, b"through\n")
    os._exit(0)  # a library that met damaged files may not end well


class Refused(BaseException):
    """What a library only warns of, or leaves out, though the file is damaged.

    No Exception: cfgrib catches those, logs them and goes on.
    """


class Refuse(logging.Handler):
    """cfgrib logs messages that it cannot read, goes on, and ecCodes may have freed them twice."""

    def emit(self, record: logging.LogRecord) -> None:
        raise Refused(" ".join(record.getMessage().split()))


def visit_netcdf(path: str, names: list[str], _: dict[str, Any]) -> None:
    """All attributes; variables of up to two axes; first and last field of those asked for."""
    import netCDF4

    with netCDF4.Dataset(path) as data:
        data.set_auto_mask(False)
        data.set_auto_scale(False)
        for name, variable in data.variables.items():
            with suppress(Exception):
                (variable.filters(), variable.chunking(), variable.endian())
            for attribute in variable.ncattrs():
                with suppress(Exception):
                    variable.getncattr(attribute)
            leading = max(len(variable.shape) - 2, 0)
            if (leading == 0 and variable.size <= LARGEST) or _asked(name, names):
                for at in (0, -1) if leading else (0,):
                    with suppress(Exception):
                        variable[(at,) * leading + (...,)]


def visit_grib(path: str, names: list[str], filter_by_keys: dict[str, Any]) -> None:
    """All messages as cfgrib meets them, coordinates, and every field of the variables asked for.

    Every field, for each is a message of its own, and its decoder dies on its own damage.
    """
    import numpy as np
    import xarray

    logging.getLogger("cfgrib.messages").addHandler(Refuse(logging.WARNING))
    keys = {"indexpath": "", "filter_by_keys": filter_by_keys}
    with xarray.open_dataset(
        path, engine="cfgrib", decode_times=False, cache=False, backend_kwargs=keys
    ) as data:
        for name, array in data.variables.items():
            leading = () if name in data.coords else array.shape[:-2]
            if name in data.coords or _asked(str(name), names):
                for at in np.ndindex(leading):
                    with suppress(Exception):
                        _ = array[(*at, ...)].values


def _asked(name: str, names: list[str]) -> bool:
    """Whether ``t`` is asked for, as itself or as one of its levels, ``t_850``."""
    return any(name in (asked, asked.rpartition("_")[0]) for asked in names)


if __name__ == "__main__":
    main()
