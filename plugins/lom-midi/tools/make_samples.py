"""Make the samples that ship, from the Debian package freedoom 0.12.1 (DATA_LICENSES).

    python tools/make_samples.py freedoom1.wad freedoom2.wad [FOLDER]

Music lumps of a WAD are Standard MIDI Files, copied as they are. With FOLDER all of them are
written there, and the round trip of every one is measured.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
from lom_midi import ExponentialTime
from lom_midi.notes import on_the_piano
from lom_midi.reading import read_midi

from lom_core import BadRecord

OUT = Path(__file__).parent.parent / "src" / "lom_midi" / "samples"
CHOSEN = {
    "train": (
        *("freedoom1_d_e1m5", "freedoom1_d_e1m6", "freedoom1_d_e2m1", "freedoom1_d_e3m8"),
        *("freedoom1_d_bunny", "freedoom2_d_dead", "freedoom2_d_dead2", "freedoom2_d_dm2int"),
        *("freedoom2_d_the_da", "freedoom2_d_messag", "freedoom2_d_read_m"),
    ),
    "val": ("freedoom1_d_intro", "freedoom1_d_victor", "freedoom2_d_ddtbl3", "freedoom2_d_shawn2"),
}


def lumps(path: Path) -> dict[str, bytes]:
    """Name -> MIDI file, by the WAD's directory of (offset, size, name)."""
    data, found = path.read_bytes(), {}
    _, n, directory = struct.unpack("<4sii", data[:12])
    for i in range(n):
        at, size, name = struct.unpack("<ii8s", data[directory + 16 * i : directory + 16 * i + 16])
        lump = data[at : at + size]
        if lump[:4] == b"MThd":
            found[f"{path.stem}_{name.rstrip(bytes(1)).decode().lower()}"] = lump
    return found


def measure(files: dict[str, bytes]) -> None:
    """The worst errors of decode(encode(...)) over all files; prints them."""
    encoder = ExponentialTime().build()
    worst = dict.fromkeys(("start (ms)", "end (ms)", "velocity"), 0.0)
    n_notes = n_dropped = n_short = n_exchanged = 0
    for name, data in files.items():
        try:
            notes, dropped = on_the_piano(read_midi(data))
        except BadRecord as error:
            print(f"{name}: {error}")
            continue
        back = encoder.decode(encoder.encode(notes))
        zero, pitch = notes["start"].min(), notes["pitch"]
        start, end = (np.rint((notes[side] - zero) / 0.01) for side in ("start", "end"))
        lasts = end > start  # others last one step
        end = np.maximum(end, start + 1)
        # A note-off names a key, not a note: the note that was struck first ends first.
        struck = np.lexsort((notes["velocity"] // 4, start, pitch))
        again = np.lexsort((back["velocity"] // 4, np.rint(back["start"] * 100), back["pitch"]))
        by_end, back_end = np.lexsort((end, pitch)), np.lexsort((back["end"], back["pitch"]))
        assert np.array_equal(back["pitch"][again], pitch[struck])
        for name, error in (
            ("start (ms)", 1e3 * (back["start"][again] - (notes["start"] - zero)[struck])),
            (
                "end (ms)",
                1e3 * (back["end"][back_end] - (notes["end"] - zero)[by_end])[lasts[by_end]],
            ),
            ("velocity", back["velocity"][again] - notes["velocity"][struck]),
        ):
            # Two notes of one key in one step may stand in either order.
            worst[name] = max(worst[name], float(np.abs(error).max(initial=0)))
        n_exchanged += int((end[np.lexsort((start, pitch))] != end[by_end]).sum())
        n_notes, n_dropped = n_notes + len(pitch), n_dropped + dropped
        n_short += int((~lasts).sum())
    print(
        f"{len(files)} files, {n_notes} notes, {n_dropped} outside the keys; off by at most {worst}"
    )
    print(f"{n_short} last less than a step; {n_exchanged} exchange ends on one key")


if __name__ == "__main__":
    found: dict[str, bytes] = {}
    for wad in sys.argv[1:3]:
        found.update(lumps(Path(wad)))
    for split, names in CHOSEN.items():
        (OUT / split).mkdir(parents=True, exist_ok=True)
        for name in names:
            (OUT / split / f"{name}.mid").write_bytes(found[name])
    measure(found)
    if len(sys.argv) > 3:
        for name, data in found.items():
            (Path(sys.argv[3]) / f"{name}.mid").write_bytes(data)
