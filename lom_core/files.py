"""FileDataset: records from files, one a line of a path list. A plugin adds ``read``.

class SeismogramFiles(FileDataset, kind="seismogram_files"):
    modality: str = "seismograms"
    suffixes: ClassVar[tuple[str, ...]] = (".mseed",)

    def read(self, path, row): ...
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

from lom_core.errors import BadRecord, ConfigError, DataError
from lom_core.modality import ModalityRegistry
from lom_core.roles import Dataset, Record, Source

NOT_OBSERVED = ("", "-")


class FileDataset(Dataset):
    """Records of one modality, from files.

    Args:
        paths: a path list (a ``.txt`` file, one path a line, relative to the current folder or
            else to the list's own; an empty line or ``-`` says that this object was not
            observed), a folder (searched for ``suffixes``, sorted), a glob, or a list of files.
        modality: the modality of the run that the files hold.

    A record's id is its file's name; where two files share one, the ids are their paths below the
    deepest folder that holds them all.

    Errors:
        ConfigError, DataError: no such list or folder, or no file in it, before training starts.
        BadRecord: from ``source[i]``, for a file that is missing, empty, truncated or wrong.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()

    paths: str | list[str]
    modality: str = "tokens"

    def read(self, path: Path, row: int) -> Any:
        """The raw observation in a file (and row, where a file holds many).

        Raise BadRecord, or let an OSError, EOFError or ValueError out: it becomes one.
        """
        raise ConfigError(f"dataset '{self.tag}' has no read()")

    def files(self, path: Path) -> list[Path]:
        """The files behind one entry of the list. Override it where an entry is a pattern."""
        return [path]

    def stem(self, path: Path) -> str:
        """An entry's name without its ending, by which ``crossmatch`` knows the object."""
        endings = (s for s in self.suffixes if path.name.lower().endswith(s))
        return path.name[: len(path.name) - len(max(endings, key=len, default=""))]

    def count(self, path: Path) -> int:
        """How many records a file holds. Override it for tables with a record a row."""
        return 1

    def build(self, registry: ModalityRegistry) -> Source:
        registry.get_config(self.modality)
        return FileSource(self, list_paths(self.paths, self.suffixes))


class FileSource:
    """Records of a FileDataset by number; small enough to send to every loader worker."""

    def __init__(self, dataset: FileDataset, paths: list[Path | None]) -> None:
        self.dataset = dataset
        self.items: list[tuple[Path | None, int]] = []
        for path in paths:
            rows = 1 if path is None else dataset.count(path)
            self.items += [(path, row) for row in range(rows)]
        self.many_rows = any(row for _, row in self.items)
        self.root = _shared_root({path for path in paths if path is not None})

    def __len__(self) -> int:
        return len(self.items)

    def ids(self) -> list[str | None]:
        """Names of files without their endings: ``ngc1300`` of ``ngc1300.fits.gz``."""
        return [None if path is None else self.object(path, row) for path, row in self.items]

    def object(self, path: Path, row: int) -> str:
        """The name of the object in a file, or in one of its rows."""
        return f"{path.name}#{row}" if self.many_rows else self.dataset.stem(path)

    def __getitem__(self, index: int) -> Record:
        path, row = self.items[index]
        if path is None:
            return {}
        where = row if self.many_rows else None
        try:
            for file in self.dataset.files(path):
                if not file.is_file():
                    raise BadRecord("no such file", file=file)
                if file.stat().st_size == 0:
                    raise BadRecord("empty file", file=file)
            value = self.dataset.read(path, row)
        except BadRecord as error:
            at = where if error.row is None else error.row
            named = path if error.file is None else error.file
            raise BadRecord(error.reason, file=named, row=at, detail=error.detail) from error
        except (OSError, EOFError, ValueError, LookupError, SyntaxError) as error:
            # Decoders raise all of these for damaged files (Pillow even SyntaxError, for PNG).
            detail = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise BadRecord("cannot be read", file=path, row=where, detail=detail) from error
        except Exception as error:  # of a reader that should have said BadRecord
            error.add_note(f"while reading {path}; raise BadRecord for a file that cannot be used")
            raise
        name = path.name if self.root is None else path.absolute().relative_to(self.root).as_posix()
        return {self.dataset.modality: value, "id": f"{name}#{row}" if self.many_rows else name}


def _shared_root(paths: set[Path]) -> Path | None:
    """The folder below which files are told apart; None where their names tell them apart."""
    if len({path.name for path in paths}) == len(paths):
        return None
    return Path(os.path.commonpath([path.absolute().parent for path in paths]))


def list_paths(paths: str | list[str], suffixes: tuple[str, ...] = ()) -> list[Path | None]:
    """The files behind ``paths`` in a fixed order; None where a path list says not observed."""
    if isinstance(paths, list):
        return [None if p in NOT_OBSERVED else Path(p).expanduser() for p in paths]
    path = Path(paths).expanduser()
    suffixes = (suffixes,) if isinstance(suffixes, str) else suffixes  # (".npy") is no tuple
    suffixes = tuple(suffix.lower() for suffix in suffixes)
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.name.lower().endswith(suffixes or ("",)))
        return _some([p for p in found if p.is_file()], f"no {_either(suffixes)} file below {path}")
    if any(c in paths for c in "*?[") and not path.exists():  # a file's name may hold brackets
        root = Path(path.anchor) if path.is_absolute() else Path()
        pattern = str(path.relative_to(path.anchor)) if path.is_absolute() else str(path)
        return _some(sorted(root.glob(pattern)), f"no file matches {paths}")
    if not path.is_file():
        raise DataError(f"no such path list, folder or glob: {paths} (looked in {Path.cwd()})")
    if suffixes and path.name.lower().endswith(suffixes) and path.suffix != ".txt":
        return [path]
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(
            f"{path} is no path list (UTF-8 text, a path a line), and of the files that are read "
            f"here none ends so: {_either(suffixes)}"
        ) from None
    return _read_list(path, lines)


def _read_list(path: Path, lines: list[str]) -> list[Path | None]:
    found: list[Path | None] = []
    for line in (line.strip() for line in lines):
        if line in NOT_OBSERVED:
            found.append(None)
            continue
        file = Path(line).expanduser()
        beside = path.parent / file
        found.append(
            beside if not file.is_absolute() and not file.exists() and beside.exists() else file
        )
    return _some(found, f"{path} lists no file")


def _some(found: list[Any], otherwise: str) -> list[Path | None]:
    if not any(found):
        raise DataError(otherwise)
    return found


def _either(suffixes: tuple[str, ...]) -> str:
    return " or ".join(suffixes) if suffixes else "any"
