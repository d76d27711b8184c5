"""Make the sample that ships: monthly sea surface temperature of the tropics, 2006 to 2010.

    python tools/make_samples.py PATH/TO/ostia_monthly.nc

The file is the one of the package iris-sample-data (see DATA_LICENSES): monthly means of OSTIA,
5 degrees south to 4.4 north, 0.56 x 0.83 degrees. Pairs of columns are averaged, so that pixels are
1.67 degrees wide; a pixel of which half is land is the mean of the other half.
"""

from __future__ import annotations

import sys
from pathlib import Path

import netCDF4
import numpy as np
import xarray

OUT = Path(__file__).parent.parent / "src" / "lom_climate" / "samples" / "tropical_sst.nc"
SCALE, OFFSET, FILL = 0.001, 295.0, -32768  # K


def main(path: str) -> None:
    source = xarray.open_dataset(path, decode_times=False)
    sst = source["surface_temperature"]
    values = sst.values.astype(np.float64)
    pairs = values.reshape(*values.shape[:2], -1, 2)
    n_of = np.isfinite(pairs).sum(-1)
    mean = np.where(n_of > 0, np.nansum(pairs, -1) / np.maximum(n_of, 1), np.nan)
    packed = np.where(np.isfinite(mean), np.rint((mean - OFFSET) / SCALE), FILL).astype(np.int16)
    with netCDF4.Dataset(OUT, "w") as out:
        out.title = "Monthly mean sea surface temperature of the tropics (OSTIA, coarsened)"
        out.source = "ostia_monthly.nc of iris-sample-data; British Crown copyright, OGL"
        out.Conventions = "CF-1.7"
        for name, axis in (("lat", "latitude"), ("lon", "longitude")):
            found = source[axis].values.astype(np.float64)
            found = found if name == "lat" else found.reshape(-1, 2).mean(1)
            out.createDimension(name, len(found))
            variable = out.createVariable(name, "f4", (name,))
            variable[:] = found
            variable.setncatts({"standard_name": axis, "units": source[axis].attrs["units"]})
        out.createDimension("time", len(packed))
        time = out.createVariable("time", "f8", ("time",))
        time[:] = source["time"].values
        time.setncatts({k: source["time"].attrs[k] for k in ("standard_name", "units", "calendar")})
        field = out.createVariable(
            "sst", "i2", ("time", "lat", "lon"), zlib=True, complevel=9, fill_value=FILL
        )
        field.setncatts({"standard_name": "sea_surface_temperature", "units": "K"})
        field.setncatts({"scale_factor": SCALE, "add_offset": OFFSET, "cell_methods": "time: mean"})
        field.set_auto_maskandscale(False)
        field[:] = packed
    print(OUT.stat().st_size, "bytes,", packed.shape, f"{np.isnan(mean).mean():.2f} land")


if __name__ == "__main__":
    main(sys.argv[1])
