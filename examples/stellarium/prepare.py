"""Stellarium's pictures of deep-sky objects as 64 x 64 PNGs with a class, in five folds by sky.

    python prepare.py NEBULAE_FOLDER OUT

NEBULAE_FOLDER holds *.png, textures.json and catalog.dat, as Debian's package stellarium-data has
them in usr/share/stellarium/nebulae/default. Written to OUT: images/NAME.png, copies/NAME_K.png
(the eight turns and reflections), labels.csv, and for each fold the path lists
train_K, val_K and test_K.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import struct
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.model_selection import StratifiedGroupKFold

SIDE, FOLDS, SEED = 64, 5, 0

# Types of catalog.dat (format 3.16) that are one of five classes. Others are left out: dark
# nebulae, clusters of galaxies, asterisms ... "Cluster with nebulosity" (16) is a nebula: that is
# what one sees.
CLASSES = {
    **dict.fromkeys((0, 1, 2, 3), "galaxy"),
    **dict.fromkeys((5, 6), "open cluster"),
    7: "globular cluster",
    **dict.fromkeys((10, 13, 14, 15, 16, 17, 18), "nebula"),
    11: "planetary nebula",
}
NUMBERS = ("NGC", "IC", "M", "C", "B", "Sh2", "VdB", "RCW", "LDN", "LBN", "Cr", "Mel", "PGC", "UGC")
PREFIXES = {
    "m": "M", "n": "NGC", "ic": "IC", "u": "UGC", "p": "PGC", "sh2-": "Sh2", "vdb": "VdB",
    "rcw": "RCW", "ldn": "LDN", "lbn": "LBN",
}  # fmt: skip


@dataclass
class Picture:
    name: str
    kind: str
    object: int  # row of the catalogue
    centre: np.ndarray  # (3,) unit vector
    radius: float  # radians, to the farthest corner
    group: int = -1


class Stream:
    """Reads what Qt's QDataStream wrote: big-endian, text as UTF-16 behind its length."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, form: str) -> tuple[float, ...]:
        found = struct.unpack_from(f">{form}", self.data, self.at)
        self.at += struct.calcsize(f">{form}")
        return found

    def text(self) -> str:
        (n,) = self.take("I")
        if n == 0xFFFFFFFF:
            return ""
        self.at += n
        return self.data[self.at - n : self.at].decode("utf-16-be")


def read_catalogue(path: Path) -> dict[tuple[str, int], tuple[int, int]]:
    """(catalogue, number) -> (row, type) of every object."""
    stream = Stream(gzip.decompress(path.read_bytes()))
    version = stream.text(), stream.text()
    if version != ("3.16", "standard"):
        raise SystemExit(f"{path} is {version}; this script reads 3.16 standard")
    found: dict[tuple[str, int], tuple[int, int]] = {}
    while stream.at < len(stream.data):
        row, *_ = stream.take("I4d")  # ra, dec, B, V
        (kind,) = stream.take("I")
        stream.text()  # morphology
        stream.take("2dI6d")  # axes, orientation, redshift, parallax, distance
        for name, number in zip(NUMBERS, stream.take("14I"), strict=True):
            if number:
                found[name, int(number)] = int(row), int(kind)
        stream.text()  # Ced
        stream.take("2I")  # Arp, VV
        for _ in range(7):  # PK, PNG, SNRG, ACO, HCG, ESO, VdBH
            stream.text()
        stream.take("5I")  # DWB, Tr, St, Ru, VdB-Ha
    return found


def read_pictures(folder: Path) -> list[Picture]:
    """The pictures whose file name is a catalogue's number of an object of the five classes."""
    catalogue = read_catalogue(folder / "catalog.dat")
    found = []
    text = (folder / "textures.json").read_text()
    text = re.sub(r"([\[,\s]-?)\.(\d)", r"\g<1>0.\2", text)  # -.97, which is no JSON
    for tile in json.loads(text)["subTiles"]:
        name = Path(tile["imageUrl"]).stem
        match = re.match(r"(sh2-|m|n|ic|u|p|vdb|rcw|ldn|lbn)(\d+)", name)
        if not match or not (folder / f"{name}.png").is_file():
            continue
        row, kind = catalogue.get((PREFIXES[match[1]], int(match[2])), (-1, -1))
        if kind not in CLASSES:
            continue
        ra, dec = np.radians(np.array(tile["worldCoords"][0], float)).T
        corners = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], 1)
        centre = corners.mean(0) / np.linalg.norm(corners.mean(0))
        radius = float(np.arccos(np.clip(corners @ centre, -1, 1)).max())
        found.append(Picture(name, CLASSES[kind], row, centre, radius))
    return sorted(found, key=lambda p: p.name)


def group(pictures: list[Picture]) -> None:
    """Pictures of one object, or of overlapping pieces of sky, get one group."""
    for i, one in enumerate(pictures):
        near = {
            other.group
            for other in pictures[:i]
            if other.object == one.object
            or np.arccos(np.clip(one.centre @ other.centre, -1, 1)) < one.radius + other.radius
        }
        one.group = min(near, default=i)
        for other in pictures[:i]:
            if other.group in near:
                other.group = one.group


def write_images(pictures: list[Picture], folder: Path, out: Path) -> None:
    for name in ("images", "copies"):
        (out / name).mkdir(parents=True, exist_ok=True)
    for one in pictures:
        image = Image.open(folder / f"{one.name}.png").convert("RGB")
        image = image.resize((SIDE, SIDE), Image.Resampling.BOX)
        image.save(out / "images" / f"{one.name}.png")
        pixels = np.asarray(image)
        for k in range(8):
            turned = np.rot90(pixels if k < 4 else pixels[:, ::-1], k)
            Image.fromarray(np.ascontiguousarray(turned)).save(out / f"copies/{one.name}_{k}.png")


def write_folds(pictures: list[Picture], out: Path) -> None:
    """Each fold's test pictures; of the other groups a tenth to choose the checkpoint by."""
    kinds, groups = [p.kind for p in pictures], np.array([p.group for p in pictures])
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=SEED)
    fold = np.zeros(len(pictures), int)
    for k, (rest, test) in enumerate(splitter.split(kinds, kinds, groups)):
        fold[test] = k
        others = np.random.default_rng((SEED, k)).permutation(np.unique(groups[rest]))
        held = set(others[: len(others) // 10].tolist())
        learn = [i for i in rest if groups[i] not in held]
        val = [i for i in rest if groups[i] in held]
        lists = {
            f"train_{k}": [f"copies/{pictures[i].name}_{c}.png" for i in learn for c in range(8)],
            f"val_{k}": [f"images/{pictures[i].name}.png" for i in val],
        }
        for name, paths in lists.items():
            (out / f"{name}.txt").write_text("".join(f"{(out / p).resolve()}\n" for p in paths))
    with (out / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "class", "group", "fold"])
        for one, k in zip(pictures, fold, strict=True):
            writer.writerow([one.name, one.kind, one.group, k])


def main(folder: Path, out: Path) -> None:
    pictures = read_pictures(folder)
    group(pictures)
    write_images(pictures, folder, out)
    write_folds(pictures, out)
    n_groups = len({p.group for p in pictures})
    print(
        f"{len(pictures)} pictures in {n_groups} groups:", dict(Counter(p.kind for p in pictures))
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
