"""Encoders of text: str <-> tokens (n,) int64, positions (n, 1) 0, 1, 2 ..."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lom_core import BadRecord, ConfigError, Tokens
from lom_core.roles import Array

if TYPE_CHECKING:
    from lom_text import TokenizerJson

END = 256


class ByteEncoder:
    """UTF-8 bytes, then END."""

    end: int | None = END

    def encode(self, value: Any) -> Tokens:
        data = checked(value).encode("utf8", errors="surrogatepass")
        content = np.frombuffer(data, dtype=np.uint8).astype(np.int64)
        return in_turn(np.append(content, END))

    def places(self, content: Array) -> Array:
        return in_turn(content).positions

    def decode(self, tokens: Tokens) -> str:
        """The text up to the first END."""
        ends = np.flatnonzero(tokens.content == END)
        content = tokens.content[: ends[0]] if len(ends) else tokens.content
        return content.astype(np.uint8).tobytes().decode("utf8", errors="replace")


class LibraryEncoder:
    """The package tokenizers at work; loaded when first needed, in each loader worker."""

    def __init__(self, config: TokenizerJson) -> None:
        self.config = config

    @property
    def end(self) -> int | None:
        """The token that its post-processor puts last, where it is asked to."""
        if not self.config.special_tokens:
            return None
        ids = load(self.config.path, self.config.sha256).encode("").ids
        return int(ids[-1]) if ids else None

    def places(self, content: Array) -> Array:
        return in_turn(content).positions

    def encode(self, value: Any) -> Tokens:
        found = load(self.config.path, self.config.sha256).encode(
            checked(value), add_special_tokens=self.config.special_tokens
        )
        if not found.ids:
            raise BadRecord("a text without any token", detail=repr(value[:40]))
        return in_turn(np.array(found.ids, dtype=np.int64))

    def decode(self, tokens: Tokens) -> str:
        text: str = load(self.config.path, self.config.sha256).decode(tokens.content.tolist())
        return text


def checked(value: Any) -> str:
    if not isinstance(value, str):
        raise BadRecord("no text", detail=f"a {type(value).__name__}")
    if not value.strip():
        raise BadRecord("an empty text")
    return value


def in_turn(content: Array) -> Tokens:
    return Tokens(content, np.arange(len(content), dtype=np.float32)[:, None])


@lru_cache(maxsize=8)
def load(path: str, sha256: str) -> Any:
    """The tokenizer in a file; ConfigError where there is none, or the package is missing."""
    if find_spec("tokenizers") is None:
        raise ConfigError(f"{path} needs the package: pip install 'lom-text[tokenizers]'")
    import tokenizers

    try:
        return tokenizers.Tokenizer.from_file(str(Path(path).expanduser()))
    except Exception as error:  # noqa: BLE001  the library raises plain Exceptions
        raise ConfigError(f"{path} is no tokenizer.json: {str(error)[:120]}") from None


def vocabulary(path: str, sha256: str) -> int:
    """One more than the largest id, added tokens included: ids may leave gaps."""
    ids: dict[str, int] = load(path, sha256).get_vocab(with_added_tokens=True)
    return 1 + max(ids.values())


def sha256_of(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).expanduser().read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(
            f"tokenizer_json: {path} cannot be read: {error.strerror}; path is a tokenizer.json"
        ) from None
