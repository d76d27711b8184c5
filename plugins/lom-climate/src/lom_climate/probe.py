"""Files that a C library reads are met first by a child process.

On damaged NetCDF-4 the HDF5 library may wait for ever, on damaged GRIB ecCodes frees twice and ends
the process, and nothing in Python stops either. So when a data set is opened, one child (visit.py)
opens all of its files, reads their attributes and coordinates, and the first and the last field of
each variable asked for; of GRIB, all of them. A file that it does not get through is named, and
never opened in the process that trains.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lom_climate.files import engine_of
from lom_core import DataError

if TYPE_CHECKING:
    from lom_climate import ClimateFiles

BY_C = ("netcdf4", "cfgrib")  # engines
PATIENCE = 60.0  # seconds for a file, and
SLOWEST = 10e6  # bytes a second to read it with
# A script, not a module of the package: it starts in a fifth of the time.
CHILD = (sys.executable, "-P", str(Path(__file__).with_name("visit.py")))


def probe(config: ClimateFiles, paths: list[Path]) -> None:
    """Let a child open the files, and the config's mask; without any for it, none is started.

    What Python can raise is left to the opening that follows.

    Errors:
        DataError: the first file on which the child hung or died, or messages of which cfgrib would
            leave out.
    """
    names = [name for several in config.by_modality().values() for name in several]
    if config.mask is not None:
        paths = [*paths, Path(config.mask.file).expanduser()]
        names.append(config.mask.variable)
    met = [path for path in paths if path.is_file() and engine_of(path) in BY_C]
    if not met:
        return
    files = [(str(p), engine_of(p), PATIENCE + p.stat().st_size / SLOWEST) for p in met]
    job = {"files": files, "names": names, "filter_by_keys": config.filter_by_keys}
    child = subprocess.run(
        CHILD,
        input=json.dumps(job).encode(),
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    told = child.stdout.decode(errors="replace").splitlines()
    through = told.count("through")
    if through == len(met):
        return
    if "ready" not in told:
        last = (child.stderr.decode(errors="replace").strip() or "no message").splitlines()[-1]
        raise DataError(f"the process that tries files before they are opened failed: {last}")
    if told[-1].startswith("refused: "):
        how = "cfgrib: " + told[-1].removeprefix("refused: ")
    elif any(line.startswith("Timeout") for line in told):
        how = f"the process that tried it hung for {files[through][2]:.0f} s"
    else:
        how = f"the process that tried it died, status {child.returncode}"
    raise DataError(f"{met[through]}: damaged ({how}); fetch it again or leave it out")
