"""The encoder of one modality by itself, for torch.export and ONNX: no packing, no Python.

    encoder = Encoder(lom_core.load("logs/demo"), "images")
    tokens, pooled = encoder(content, positions)

It computes what ``lom embed`` does for records of that modality that all have as many tokens, all
of them observed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from lom_core.api import LargeObservationModel
from lom_core.attention import Past
from lom_core.batch import Observation, pack_row
from lom_core.errors import ConfigError
from lom_core.roles import Tokens


class Encoder(nn.Module):
    """Content and positions of tokens -> what the model makes of them.

    Errors:
        ConfigError: the model does not know the modality.
    """

    def __init__(self, model: LargeObservationModel, modality: str) -> None:
        super().__init__()
        model.modalities.get_config(modality)  # or an error that lists them
        self.part, self.bos, self.body = model.lom.part(modality), model.lom.bos, model.lom.body
        self.causal, self.asks = _condition(model, modality)

    def forward(self, content: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            content: (b, n, w) in the units in which it is stored, or (b, n) int64 tokens.
            positions: (b, n, p) float32.

        Returns:
            (b, n, d) hidden states of the tokens, after the last norm; (b, d), their mean.
        """
        b, n = positions.shape[:2]
        at = rearrange(positions, "b n p -> (b n) p")
        values = content.flatten(0, 1)
        if not self.part.discrete:
            values = self.part.scale(values, at)
        known = self.part.embed(values) + self.part.place(at)
        bos = repeat(self.bos, "d -> b 1 d", b=b)
        x = torch.cat([bos, rearrange(known, "(b n) d -> b n d", b=b)], dim=1)
        if self.asks:  # each token is asked for in the slot before it, as in training
            asked = self.part.ask_vector.expand(b * n, -1)
            if self.part.ask is not None:
                asked = asked + self.part.ask(at)
            x = x + F.pad(rearrange(asked, "(b n) d -> b n d", b=b), (0, 0, 0, 1))
        places = torch.arange(n + 1, device=x.device).repeat(b)
        none = torch.zeros(0, dtype=torch.int32)
        dense = cast(Past, _Dense(b, self.causal))
        flat = rearrange(x, "b n d -> (b n) d")
        h = self.body(flat, none, none, places, [dense] * len(self.body.blocks))
        tokens = rearrange(h, "(b n) d -> b n d", b=b)[:, 1:]
        return tokens, tokens.mean(dim=1)


class _Dense:
    """Attention within b segments of one length."""

    def __init__(self, b: int, causal: bool) -> None:
        self.b, self.causal = b, causal

    def attend(self, q: Tensor, k: Tensor, v: Tensor, starts: Tensor, given: Tensor) -> Tensor:
        q, k, v = (rearrange(t, "(b n) h e -> b h n e", b=self.b) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return rearrange(out, "b h n e -> (b n) h e")


def _condition(model: LargeObservationModel, modality: str) -> tuple[bool, bool]:
    """Whether tokens see only what stands before them, and whether each is asked for one slot
    early, as the objective has it."""
    tokens, names = sample(model, modality), model.modalities.names()
    row = pack_row([Observation("o", {modality: tokens})], 1 + len(tokens), names)
    batch = model.config.objective.condition([row], model.lom.layouts, [modality])
    return int(batch.given[0]) == 0, len(batch.spans[modality].asked) > 0


def sample(model: LargeObservationModel, modality: str, n: int = 3) -> Tokens:
    """Some tokens of a modality, to trace with."""
    layout = model.lom.layouts[modality]
    content = torch.zeros(n, dtype=torch.int64) if layout.discrete else torch.ones(n, layout.width)
    return Tokens(content.numpy(), torch.ones(n, layout.pos_width).numpy())


def export_encoder(model: LargeObservationModel, modality: str, path: str | Path) -> Path:
    """Write the encoder as ``.onnx``, or as torch.export's ``.pt2``. The sizes b, and n of at
    least 2, are free.

    Errors:
        ConfigError: another ending; an unknown modality; ONNX's packages are missing.
    """
    path = Path(path)
    if path.suffix not in (".onnx", ".pt2"):
        raise ConfigError(f"{path}: an encoder is written as .onnx or .pt2 (torch.export)")
    encoder = Encoder(model, modality).eval()
    tokens = sample(model, modality)
    arguments = tuple(
        repeat(torch.from_numpy(x), "n ... -> b n ...", b=2).contiguous()
        for x in (tokens.content, tokens.positions)
    )
    b, n = torch.export.Dim("b", min=1), torch.export.Dim("n", min=2)
    shapes: tuple[Any, ...] = ({0: b, 1: n}, {0: b, 1: n})
    with torch.no_grad():
        program = torch.export.export(encoder, arguments, dynamic_shapes=shapes)
    if path.suffix == ".pt2":
        torch.export.save(program, path)
        return path
    try:
        import onnxscript  # noqa: F401  what torch.onnx writes with
    except ImportError:
        raise ConfigError("ONNX needs `pip install lom-core[onnx]`") from None
    given, found = ["content", "positions"], ["tokens", "pooled"]
    torch.onnx.export(
        program, (), str(path), input_names=given, output_names=found, dynamo=True, verbose=False
    )
    return path
