"""Configs of data sets of light curves; what they build is in readers.py, datasets.py ..."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from lom_core import BadRecord, ConfigError, Dataset, FileDataset, ModalityRegistry, Source
from lom_core.files import FileSource, list_paths

Curve = dict[str, Any]
"""``time``, ``value`` (n,) float64, and where there are any ``error`` (n,), ``band`` (n,), and
``targets``: modality -> label."""

Windows = Literal["sequential", "random"]


class _CurveFiles(FileDataset):
    """Windows of the light curves that files hold.

    ``window`` epochs; 0 takes whole curves. ``sequential`` windows lie end to end and share no
    epoch (the last may be shorter); ``random`` ones begin anywhere, ``per_curve`` of them for each
    curve, drawn by ``seed`` once. For another place each time leave ``window`` 0: a run crops
    curves that are longer than its rows at a place drawn anew. To count windows, and curves in a
    file of many, files are read once before training.
    """

    modality: str = "light_curves"
    window: int = Field(default=0, ge=0)
    windows: Windows = "sequential"
    per_curve: int = Field(default=1, ge=1)
    seed: int = 0

    @property
    def many(self) -> bool:
        """Whether a file may hold more than one record."""
        return self.window > 0

    def curves(self, path: Path) -> list[tuple[str, Curve | BadRecord]]:
        """(name, curve sorted by time); the name is empty where a file holds just one."""
        raise ConfigError(f"dataset '{self.tag}' has no curves()")

    def count(self, path: Path) -> int:
        from lom_timeseries.datasets import count_windows

        return count_windows(self, path) if self.many else 1

    def entry(self, path: Path, row: int) -> tuple[str, Curve]:
        """Name within the file, and curve, of a record.

        Errors:
            BadRecord: the file, or just this curve, cannot be used.
        """
        from lom_timeseries.datasets import windows_of

        found = windows_of(self, path)
        if len(found) > 1 and not self.many:
            told = f"{len(found)}, one a row; set object_column, and each is a record"
            raise BadRecord("several curves in one file", detail=told)
        name, curve = found[row]
        if isinstance(curve, BadRecord):
            raise curve
        return name, curve

    def read(self, path: Path, row: int) -> Any:
        return self.entry(path, row)

    def build(self, registry: ModalityRegistry) -> Source:
        from lom_timeseries.datasets import CurveSource

        registry.get_config(self.modality)
        return CurveSource(self, list_paths(self.paths, self.suffixes))


class LightCurveFiles(_CurveFiles, kind="light_curve_files"):
    """Light curves from CSV, text, parquet, ECSV and FITS tables; times in days, or in the unit
    that ECSV and FITS state.

    A column that is not named is found by its name, upper or lower case (README.md lists which).
    A FITS file may hold a curve a row, in vector columns, of any length or filled up with NaN. So
    may a parquet file, in list columns: with ``object_column`` set and no ``window`` nor ``where``
    it is then read by row group, not as a whole. Epochs are sorted by time; those of one time are
    all kept, in the order of the file.

    Args:
        time, value, error, band: columns. ``error`` and ``band`` are optional: where none is
            named and none is found, all errors are equal and there is one band.
        object_column: a file holds many curves, told apart by this column.
        where: only rows with these values: ``{UL: "False", band: [g, r]}``.
        targets: modality -> column that labels the objects: one value an object.
        window, windows, per_curve, seed: see README.md.
    """

    suffixes: ClassVar[tuple[str, ...]] = (
        *(".csv", ".tsv", ".dat", ".ecsv", ".parquet", ".pq"),
        *(".fits", ".fits.gz", ".fit"),
    )

    time: str | None = None
    value: str | None = None
    error: str | None = None
    band: str | None = None
    object_column: str | None = None
    where: dict[str, str | list[str]] = {}
    targets: dict[str, str] = {}

    @property
    def many(self) -> bool:
        return self.window > 0 or self.object_column is not None

    def build(self, registry: ModalityRegistry) -> Source:
        from lom_timeseries.readers import need_parquet

        for name in self.targets:
            registry.get_config(name)
        source = super().build(registry)
        assert isinstance(source, FileSource)
        need_parquet(path for path, _ in source.items)
        return source

    def curves(self, path: Path) -> list[tuple[str, Curve | BadRecord]]:
        from lom_timeseries.readers import read_curves

        return read_curves(self, path)

    def count(self, path: Path) -> int:
        return super().count(path) if (n := self._rows(path)) is None else n

    def entry(self, path: Path, row: int) -> tuple[str, Curve]:
        if self._rows(path) is None:
            return super().entry(path, row)
        from lom_timeseries.row_groups import read_row

        name, curve = read_row(self, path, row)
        if isinstance(curve, BadRecord):
            raise curve
        return name, curve

    def _rows(self, path: Path) -> int | None:
        """Records of a file that holds a curve a row and is read by row; None for all others."""
        if self.window or self.where or not self.many:
            return None
        from lom_timeseries.row_groups import count_rows

        try:
            return count_rows(self, path)
        except (BadRecord, OSError):
            return None  # read as a whole, it tells what is wrong when it is its turn


class KeplerFiles(_CurveFiles, kind="kepler_files"):
    """Light curves of Kepler, K2 and TESS: FITS files of the mission pipelines, flux in e-/s.

    Cadences without a time or with a flag are not part of the curve.

    Args:
        flux: ``pdcsap``, corrected for systematics, or ``sap``, the plain sum of the aperture.
        all_cadences: keep those that QUALITY (SAP_QUALITY) flags, too.
        window, windows, per_curve, seed: see README.md.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".fits", ".fits.gz")

    flux: Literal["pdcsap", "sap"] = "pdcsap"
    all_cadences: bool = False

    def curves(self, path: Path) -> list[tuple[str, Curve | BadRecord]]:
        from lom_timeseries.readers import read_kepler

        return [("", read_kepler(path, self.flux, self.all_cadences))]


class AstromerRecords(Dataset, kind="astromer_records"):
    """The TFRecord folders that AstroMer writes, read without TensorFlow.

    ``root/{train,val,test}``, with a folder for each class or without, hold ``*.record`` files of
    SequenceExamples: context ``id``, ``label``, ``length``; sequences ``dim_0`` (days), ``dim_1``
    (magnitude), ``dim_2`` (error), or columns by the names that ``light_curve_files`` knows, as
    AstroMer's later ``config.toml`` lists them. Their numbers are float32: Julian dates of 59000
    are kept within 0.004 days, which is not this reader's doing.

    Checksums are checked. Files are indexed by their records' lengths before training; where one
    is truncated, what comes before is read and the rest is one bad record. Curves are whole: a run
    crops those that are longer than its rows.

    Args:
        root: the folder of a fold, ``.../fold_0``.
        split: ``val`` may be named ``validation`` there.
        time, value, error, band: names of sequences instead.
        id_feature, label_feature: names in the context; case does not count.
        label_modality: under which records hold the label, a number; empty leaves it out.
    """

    root: str
    split: Literal["train", "val", "test"] = "train"
    modality: str = "light_curves"
    time: str | None = None
    value: str | None = None
    error: str | None = None
    band: str | None = None
    id_feature: str = "id"
    label_feature: str = "label"
    label_modality: str = ""

    def build(self, registry: ModalityRegistry) -> Source:
        from lom_timeseries.astromer_records import open_records

        for name in filter(None, (self.modality, self.label_modality)):
            registry.get_config(name)
        return open_records(self)


class LightCurveSamples(Dataset, kind="light_curve_samples"):
    """Real light curves that ship (README.md).

    Args:
        split: ``train`` or ``val``: other objects, or a later time.
        which: ``supernovae`` (superluminous ones, AB magnitudes in g, r, i, z, cyan, orange) or
            ``kepler`` (KIC 10002792, e-/s, windows of 200 cadences).
    """

    split: Literal["train", "val"] = "train"
    which: Literal["supernovae", "kepler"] = "supernovae"
    modality: str = "light_curves"

    def build(self, registry: ModalityRegistry) -> Source:
        from lom_timeseries.datasets import sample_curves

        registry.get_config(self.modality)
        return sample_curves(self.which, self.split, self.modality, registry)
