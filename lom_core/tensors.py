"""Tensors in safetensors files: one file, or shards that several processes wrote.

A shard holds neighbouring rows (dim 0) of a tensor and says in the file's metadata where they
begin, in the words of ``torch.distributed.checkpoint.HuggingFaceStorageReader``, which can read
these files too. Nothing here is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lom_core.errors import CheckpointError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

SHARDING, OFFSETS = "DCP_SHARDING_INFO", "saved_offsets"


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Does this process hold a part of its rows?"""
    return hasattr(tensor, "device_mesh")


def local_rows(tensor: Tensor) -> tuple[Tensor, int]:
    """What this process holds of a tensor, and the row at which that begins.

    A plain tensor is held whole. A sharded one is split along its rows as ``torch.chunk`` does.
    """
    if not is_sharded(tensor):
        return tensor, 0
    assert all(p.is_shard(0) for p in tensor.placements), tensor.placements
    mesh = tensor.device_mesh
    chunk = -(-tensor.shape[0] // mesh.size())
    return tensor.to_local(), min(mesh.get_local_rank() * chunk, tensor.shape[0])


def write(path: Path, tensors: Mapping[str, Tensor], begins: Mapping[str, int]) -> str:
    """Write tensors on the CPU, each beginning at a row of its whole; the file's hash.

    Errors:
        OSError, SafetensorError: the disk is full, or not writable.
    """
    offsets = {
        name: {OFFSETS: [begins.get(name, 0), *[0] * (tensor.ndim - 1)][: tensor.ndim]}
        for name, tensor in tensors.items()
    }
    sharded = {SHARDING: json.dumps(offsets)} if any(begins.values()) else {}
    save_file(dict(tensors), path, metadata={"format": "pt", **sharded})
    path.chmod(path.parent.stat().st_mode & 0o666)  # it writes for the owner alone
    return file_hash(path)


def file_hash(path: Path) -> str:
    """BLAKE2b of a file. In one call, which lets other threads run for all of its time."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            return hashlib.blake2b(digest_size=16).hexdigest()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return hashlib.blake2b(data, digest_size=16).hexdigest()


@dataclass(frozen=True)
class _Piece:
    path: Path
    file: safe_open
    begin: int
    shape: tuple[int, ...]


class TensorFiles(Mapping[str, Tensor]):
    """The tensors of one or several files by name, read when they are asked for.

    Errors:
        CheckpointError: a file is missing, damaged or no safetensors; rows are missing.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.pieces: dict[str, list[_Piece]] = {}
        for path in paths:
            file = _open(path)
            known = json.loads((file.metadata() or {}).get(SHARDING, "{}"))
            for name in file.keys():  # noqa: SIM118  not a mapping
                shape = tuple(file.get_slice(name).get_shape())
                begin = [*known.get(name, {}).get(OFFSETS, []), 0][0]
                self.pieces.setdefault(name, []).append(_Piece(path, file, begin, shape))
        for pieces in self.pieces.values():
            pieces.sort(key=lambda piece: piece.begin)

    def __iter__(self) -> Iterator[str]:
        return iter(self.pieces)

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, name: str) -> Tensor:
        if not self.shape(name):
            tensor: Tensor = self.pieces[name][0].file.get_tensor(name)
            return tensor
        return self.rows(name, 0, self.shape(name)[0])

    def shape(self, name: str) -> tuple[int, ...]:
        """The whole tensor's."""
        last = self.pieces[name][-1]
        return (last.begin + last.shape[0], *last.shape[1:]) if last.shape else ()

    def rows(self, name: str, begin: int, end: int) -> Tensor:
        """Rows ``[begin, end)`` of a tensor, out of as many files as hold them."""
        pieces = self.pieces[name]
        found, at = [pieces[0].file.get_slice(name)[0:0]], begin
        for piece in pieces:
            high = min(end, piece.begin + piece.shape[0])
            if piece.begin <= at < high:
                rows = piece.file.get_slice(name)[at - piece.begin : high - piece.begin]
                found.append(rows)
                at = high
        if at != end:
            raise CheckpointError(f"{pieces[0].path.parent} has no row {at} of {name}")
        return found[1] if len(found) == 2 else torch.cat(found)

    def like(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor, sharded and placed as this one is: a parameter may wait on the CPU for a
        mesh of GPUs (cpu_offload), and a step counts on the device of its weights."""
        if not is_sharded(tensor) or not self.shape(name):
            return self[name].to(tensor.device)
        local, begin = local_rows(tensor)
        rows = self.rows(name, begin, begin + len(local))
        found = torch.empty_like(tensor, dtype=rows.dtype, requires_grad=False)
        local_rows(found)[0].copy_(rows)
        return found


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, "pt")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file: {error}") from error


def stage(tensors: Mapping[str, Tensor], buffers: dict[str, Tensor]) -> None:
    """Copy tensors into buffers on the CPU, made where they are missing and used again after."""
    for name, tensor in tensors.items():
        buffer = buffers.get(name)
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            pinned = tensor.device.type == "cuda"
            buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
            buffers[name] = buffer
        buffer.copy_(tensor, non_blocking=True)
    for device in {tensor.device for tensor in tensors.values() if tensor.device.type == "cuda"}:
        torch.cuda.current_stream(device).synchronize()
    for name in buffers.keys() - tensors.keys():
        del buffers[name]
