"""The folders of TFRecords that AstroMer writes and trains on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lom_core import BadRecord, DataError, Record
from lom_core.roles import Array
from lom_timeseries.readers import find_columns, make_curve
from lom_timeseries.tfrecord import Example, Frame, index_frames, parse_example, read_frame

if TYPE_CHECKING:
    from lom_timeseries.curve_sets import AstromerRecords

FOLDERS = {"train": ("train",), "val": ("val", "validation"), "test": ("test",)}


def open_records(config: AstromerRecords) -> AstromerSource:
    """The records of a split, indexed.

    Errors:
        DataError: no such folder, or no record file in it.
    """
    root = Path(config.root).expanduser()
    folders = [root / name for name in FOLDERS[config.split] if (root / name).is_dir()]
    if not folders:
        wanted = " or ".join(str(root / name) for name in FOLDERS[config.split])
        raise DataError(f"no such folder: {wanted} (root is the folder of one fold: .../fold_0)")
    paths = sorted(p for folder in folders for p in folder.rglob("*.record") if p.is_file())
    if not paths:
        raise DataError(f"no .record file below {folders[0]}")
    frames = [(path, frame) for path in paths for frame in index_frames(path) or [(0, -1)]]
    return AstromerSource(config, root, frames)


class AstromerSource:
    """Records by number: files by name, records in their order."""

    def __init__(
        self, config: AstromerRecords, root: Path, frames: list[tuple[Path, Frame]]
    ) -> None:
        self.config, self.root, self.frames = config, root, frames

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Record:
        path, frame = self.frames[index]
        try:
            example = parse_example(read_frame(path, frame))
            record: dict[str, Any] = {self.config.modality: self._curve(example)}
            name = _one(example.context, self.config.id_feature)
            if self.config.label_modality:
                label = _one(example.context, self.config.label_feature)
                if label is None:
                    told = f"no '{self.config.label_feature}' in {', '.join(example.context)}"
                    raise BadRecord("a record without a label", detail=told[:200])
                record[self.config.label_modality] = label
        except BadRecord as error:
            at = f"(byte {frame[0]})"
            raise BadRecord(error.reason, file=path, row=at, detail=error.detail) from error
        except OSError as error:
            raise BadRecord("cannot be read", file=path, detail=str(error)[:200]) from error
        where = f"{path.relative_to(self.root).as_posix()}@{frame[0]}"
        return {**record, "id": str(where if name is None else name)}

    def _curve(self, example: Example) -> dict[str, Array]:
        columns = find_columns(self.config, example.sequences)
        curve = make_curve({role: example.sequences[c] for role, c in columns.items()})
        said = _one(example.context, "length")
        if said is not None and said != len(curve["time"]):
            told = f"it says {said}, there are {len(curve['time'])}"
            raise BadRecord("another length than the record says", detail=told)
        return curve


def _one(context: dict[str, Any], name: str) -> int | float | str | None:
    """The one value of a context feature, whatever the case of its name; None without one."""
    found = [value for key, value in context.items() if key.lower() == name.lower()]
    if not found or len(found[0]) != 1:
        return None
    value = found[0][0]
    if isinstance(value, bytes):
        return value.decode("utf8", errors="replace")
    scalar: int | float = value.item()
    return scalar
