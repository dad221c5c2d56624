"""Text to token ids, and token ids to text as they come: what the tokenizer's decoder does, one token at a time.

The libraries decode a whole list of ids; a stream needs what each token adds. So each token's bytes are worked out once, from
the kind of decoder that the tokenizer has, and an incremental UTF-8 decoder joins them. The text after n tokens follows from
these n tokens alone, whoever made them.
"""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.limits import GENERATION_ALTERNATIVE_CHARS_MAX, GENERATION_TOKEN_BYTES_MAX

TOOL_MARKS = frozenset(
    {
        "<tool_call>",  # Qwen, Hermes
        "<|tool_call|>",  # Phi-4, Granite
        "[TOOL_CALLS]",  # Mistral
        "<|python_tag|>",  # Llama 3
        "<|tool_calls_section_begin|>",  # Kimi
        "<｜tool▁calls▁begin｜>",  # DeepSeek
        "<|tool_call_start|>",  # LFM2
    }
)
"""Tokens by which families of models begin a call of a tool. Others write calls as plain text, which nothing tells apart."""
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_BLANK = "\N{LOWER ONE EIGHTH BLOCK}"
"""SentencePiece's space."""


class TokenCodec:
    """A tokenizer.json."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError for a file that is not JSON; for other nonsense the library raises a plain Exception."""
        self.json = path.read_text(encoding="utf-8")
        decoder = json.loads(self.json).get("decoder")
        self._tokenizer = Tokenizer.from_str(self.json)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._decoder = _decoder_kind(decoder)
        self._added = {number: token.content for number, token in self._tokenizer.get_added_tokens_decoder().items()}
        self._special = {
            number for number, token in self._tokenizer.get_added_tokens_decoder().items() if token.special
        }
        self.tool_marks = frozenset(number for number, text in self._added.items() if text in TOOL_MARKS)
        self._bytes: dict[int, bytes] = {}

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Ids of a text. `special`: with what the tokenizer puts around a text of its own (a first token, mostly); a chat
        template writes these itself. Raises ExecutionError(code="INPUT") for a text that is not Unicode."""
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ExecutionError("the prompt has a lone surrogate: it is not Unicode", code="INPUT") from None
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special).ids
        return ids

    def bytes_of(self, token: int) -> bytes:
        """What the token adds to a text, in UTF-8, perhaps a part of a character; nothing for special tokens. Raises
        ExecutionError(code="MODEL") for a token of absurd length."""
        known = self._bytes.get(token)
        if known is None:
            known = b"" if token in self._special else self._work_out(token)
            if len(known) > GENERATION_TOKEN_BYTES_MAX:
                raise ExecutionError(f"a token of the model has {len(known)} bytes", code="MODEL")
            self._bytes[token] = known
        return known

    def text_of(self, token: int) -> str:
        """For showing one token by itself: special ones by name, parts of characters as U+FFFD."""
        text = self._added.get(token)
        if text is None:
            text = self.bytes_of(token).decode(errors="replace")
        return text[:GENERATION_ALTERNATIVE_CHARS_MAX]

    def _work_out(self, token: int) -> bytes:
        written = self._tokenizer.id_to_token(token)
        if written is None:  # vocabularies of graphs are rounded up
            return b""
        if token in self._added:
            return self._added[token].encode()
        if self._decoder == "bytes":
            return _of_alphabet(written)
        if self._decoder == "pieces":
            byte = _BYTE_TOKEN.fullmatch(written)
            return bytes([int(byte[1], 16)]) if byte else written.replace(_BLANK, " ").encode()
        # Whatever the decoder does at a text's beginning, it does not do to the second of two.
        first, both = self._tokenizer.decode([token]), self._tokenizer.decode([token, token])
        return str(both[len(first) :]).encode()


class Detokenizer:
    """Text as tokens come. What is only the beginning of a character waits; bytes that are none become U+FFFD."""

    def __init__(self, codec: TokenCodec) -> None:
        self._codec = codec
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token: int) -> str:
        """What became readable with this token."""
        return self._utf8.decode(self._codec.bytes_of(token))


def _decoder_kind(decoder: dict[str, Any] | None) -> str:
    """ "bytes": characters stand for bytes (GPT-2 and most since). "pieces": SentencePiece. "": another."""
    parts = _flat(decoder)
    kinds = {part.get("type") for part in parts}
    if "ByteLevel" in kinds:
        return "bytes"
    blanks = any(part.get("type") == "Replace" and _BLANK in json.dumps(part, ensure_ascii=False) for part in parts)
    return "pieces" if blanks or kinds & {"ByteFallback", "Metaspace"} else ""


def _flat(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    if decoder is None:
        return []
    if decoder.get("type") == "Sequence":
        return [part for inner in decoder.get("decoders", []) for part in _flat(inner)]
    return [decoder]


def _alphabet() -> dict[str, int]:
    """Which byte a character of byte-level tokenizers stands for: GPT-2's `bytes_to_unicode`, turned round."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


_BYTE_OF = _alphabet()


def _of_alphabet(written: str) -> bytes:
    """A token that has other characters than the alphabet's means what it says, as in the library's decoder."""
    try:
        return bytes(_BYTE_OF[char] for char in written)
    except KeyError:
        return written.encode()
