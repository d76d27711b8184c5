"""Text: as bytes, or as the tokens of any Hugging Face tokenizer.json."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from lom_core import (
    BadRecord,
    Component,
    ConfigError,
    Dataset,
    FileDataset,
    ModalityConfig,
    ModalityRegistry,
    Source,
    Tokeniser,
    hookimpl,
)
from lom_core.roles import Encoder


class TextBytes(Tokeniser, kind="text_bytes"):
    """The bytes of a text in UTF-8, then an end: a vocabulary of 257 that knows every language.

    A text is a ``str``. A token's position is its number in the text, 0, 1, 2 ... Decoding is
    exact. A window that was cut out of a text has no end, and may begin or stop within a
    character: what is left of that decodes as U+FFFD.
    """

    @property
    def vocab_size(self) -> int:
        return 257

    def build(self) -> Encoder:
        from lom_text.tokeniser import ByteEncoder

        return ByteEncoder()


class TokenizerJson(Tokeniser, kind="tokenizer_json"):
    """The tokens of a Hugging Face ``tokenizer.json``, as its own library makes them.

    Decoding gives what that tokenizer's decoder gives: exact for byte-level ones (GPT-2, Llama 3,
    ModernBERT ...), without case and accents for those that drop them.

    Args:
        path: the file.
        sha256: of the file, filled in here and kept in checkpoints: another file under the same
            name would give tokens of another meaning.
        special_tokens: whether its post-processor adds what it usually adds ([CLS], <s> ...).

    Errors:
        ConfigError: no such file, no tokenizer in it, another file than the sha256 says, or the
            package tokenizers is not installed.
    """

    path: str
    sha256: str = ""
    special_tokens: bool = False

    @model_validator(mode="after")
    def _same_file(self) -> TokenizerJson:
        from lom_text.tokeniser import sha256_of

        found = sha256_of(self.path)
        if self.sha256 and self.sha256 != found:
            raise ConfigError(
                f"{self.path} is another tokenizer than the one this model was trained with "
                f"(sha256 {found[:12]}, expected {self.sha256[:12]}); give the path of that one"
            )
        object.__setattr__(self, "sha256", found)
        return self

    @property
    def vocab_size(self) -> int:
        from lom_text.tokeniser import vocabulary

        return vocabulary(self.path, self.sha256)

    def build(self) -> Encoder:
        from lom_text.tokeniser import LibraryEncoder

        return LibraryEncoder(self)


class Text(ModalityConfig, kind="text"):
    """Text, a byte a token; ``tokeniser: {kind: tokenizer_json, path: ...}`` for subwords."""

    name: str = Field(default="text", pattern=r"^[A-Za-z][A-Za-z0-9_]*$")

    def defaults(self) -> dict[str, Any]:
        # Attention knows the distance of tokens; the position tells how far a text has come.
        place = {"kind": "fourier", "n_frequencies": 16, "min_period": 4.0, "max_period": 16384.0}
        return {
            "tokeniser": self.tokeniser or "text_bytes",
            "scale": "identity",
            "position": place,
            "head": "categorical",
        }

    def synth(self, rng: np.random.Generator) -> tuple[str, float]:
        """Forty letters a and b; the share of a that they were drawn with."""
        share = float(rng.uniform())
        return "".join(rng.choice(["a", "b"], size=40, p=[share, 1 - share])), share

    def write(self, value: Any, path: Path) -> Path:
        """``PATH.txt`` in UTF-8."""
        path = path.with_name(path.name + ".txt")
        path.write_text(str(value), encoding="utf8")
        return path

    def picture(self, figure: Any, truth: Any, predicted: Any) -> None:
        from lom_text.pictures import draw_text

        draw_text(figure, str(truth), str(predicted))


class TextFiles(FileDataset, kind="text_files"):
    """A text a file, in UTF-8."""

    suffixes: ClassVar[tuple[str, ...]] = (".txt", ".md", ".rst")

    modality: str = "text"

    def read(self, path: Path, row: int) -> Any:
        try:
            return path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadRecord("not UTF-8", detail=f"byte {error.start}") from None


class JsonLines(Dataset, kind="jsonl"):
    """JSON lines: an object a line, its fields by name. Only offsets are held in memory.

    ``{kind: jsonl, paths: notes.jsonl, columns: {text: note, redshift: z}}``. A field that is
    missing, null or empty is a modality that was not observed. Lists of numbers become arrays.

    Args:
        paths: a file, a folder (of ``.jsonl``), a glob, or a list of files.
        columns: modality -> field; ``a.b`` is field b of object a.
        id_column: the field of the records' ids; file and line otherwise.
        where: only lines with these values: ``{split: train}``. All lines are read once for it.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".jsonl", ".ndjson")

    paths: str | list[str]
    columns: dict[str, str] = Field(default={"text": "text"}, min_length=1)
    id_column: str | None = None
    where: dict[str, Any] = {}

    def build(self, registry: ModalityRegistry) -> Source:
        from lom_text.datasets import LineSource

        for name in self.columns:
            registry.get_config(name)
        return LineSource(self)


class TextSamples(Dataset, kind="text_samples"):
    """Paragraphs about astronomical data from the documentation of astropy (see README).

    Args:
        split: ``train`` and ``val`` come from different parts of the package.
    """

    split: Literal["train", "val"] = "train"
    modality: str = "text"

    def build(self, registry: ModalityRegistry) -> Source:
        from lom_text.datasets import LineSource, sample_path

        registry.get_config(self.modality)
        columns = {self.modality: "text"}
        return LineSource(JsonLines(paths=sample_path(self.split), columns=columns, id_column="id"))


@hookimpl
def lom_register(register: Callable[[type[Component]], None]) -> None:
    for cls in (Text, TextBytes, TokenizerJson, TextFiles, JsonLines, TextSamples):
        register(cls)


__all__ = ["JsonLines", "Text", "TextBytes", "TextFiles", "TextSamples", "TokenizerJson"]
