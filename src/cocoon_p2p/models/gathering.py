"""Copies a model's files out of a source, finds out what it is, and writes its manifest.

Everything is copied first and looked into then: what was checked is what is kept. What the model does not need (readmes,
other precisions, settings that went into the manifest) stays behind, so the same model has one id wherever it comes from.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.limits import CHAT_TEMPLATE_BYTES_MAX, TOKENIZER_BYTES_MAX
from cocoon_p2p.models.choice import Choice
from cocoon_p2p.models.disk_room import check_room
from cocoon_p2p.models.file_digest import PieceHashes
from cocoon_p2p.models.genai_folder import TEMPLATE_FILE, find_generation, find_template
from cocoon_p2p.models.inspection import NotAllowed, NotOnnx, OnnxFacts
from cocoon_p2p.models.layout import copy_file
from cocoon_p2p.models.manifest import (
    CLASSIFICATION,
    GENERATION,
    TENSOR,
    FileEntry,
    Manifest,
    ManifestError,
    check_consistent,
    check_path,
    parse_manifest,
)
from cocoon_p2p.models.source import GENAI_CONFIG, Progress, Source, read_settings, read_small
from cocoon_p2p.models.text_front_end import find_text

MAIN_FILE, TOKENIZER_FILE = "model.onnx", "tokenizer.json"
_OWN_FILES = (MAIN_FILE, TOKENIZER_FILE, TEMPLATE_FILE)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the operator says about a model beyond its files. All of it goes into the manifest, and so into the id."""

    license: str = ""
    pooling: str | None = None
    """How one vector is made of one for each token, where the files do not say it: one of `text_part.POOLINGS`."""
    state: tuple[tuple[str, str], ...] = ()
    """(input, output) of tensors that one call hands to the next."""


class Silent:
    """A progress that nobody watches."""

    def begin(self, what: str, size: int) -> None:
        pass

    def advance(self, count: int) -> None:
        pass


class Gathering:
    """One model on its way into `incoming`, a folder of its own. Every method raises ConfigError."""

    def __init__(
        self, source: Source, choice: Choice, incoming: Path, inspect: Callable[[Path], OnnxFacts], progress: Progress
    ) -> None:
        self._source = source
        self._choice = choice
        self._incoming = incoming
        self._inspect = inspect
        self._progress = progress
        self._copied: dict[str, PieceHashes] = {}

    @property
    def pieces(self) -> dict[str, bytes]:
        """The hashes of each file's pieces, one after the other, by its path in the manifest."""
        return {path: copied.joined for path, copied in self._copied.items()}

    def gather(self, wishes: Wishes, *, with_text: bool) -> Manifest:
        """The checked manifest of all that was copied."""
        choice, source = self._choice, self._source
        tokenizer = choice.beside(TOKENIZER_FILE)
        with_text = (with_text or choice.genai) and source.has(tokenizer)
        expected = source.size(choice.main) + source.companions(choice.main)
        check_room(self._incoming, expected, f"the model {source.label}")
        self._copy(choice.main, MAIN_FILE, trusted=True)
        facts = self._facts()
        self._copy_external(facts)
        if with_text:
            self._copy_bounded(tokenizer, TOKENIZER_FILE, TOKENIZER_BYTES_MAX)
        parts: dict[str, Any] = {"kind": TENSOR}
        if choice.genai:
            parts = self._generation(facts, with_text=with_text)
        elif with_text:
            self._check_not_decoder(facts)
            found = find_text(facts, self._incoming / TOKENIZER_FILE, self._settings, pooling=wishes.pooling)
            parts = {"kind": found.kind, "text": found.text}
        elif wishes.pooling is not None:
            raise ConfigError(
                f"{source.label} has no {TOKENIZER_FILE}, so there are no texts whose vectors could be pooled",
                hint="add the folder with the model and its tokenizer.json",
            )
        _check_wishes(source.label, parts["kind"], wishes)
        return self._checked(
            Manifest(
                files=tuple(FileEntry(path, self._copied[path].size, self._copied[path].digest) for path in sorted(self._copied)),
                main=MAIN_FILE,
                inputs=facts.inputs,
                outputs=facts.outputs,
                opset=facts.opset,
                license=wishes.license,
                precision=facts.precision,
                state=wishes.state,
                **parts,
            )
        )  # fmt: skip

    def _facts(self) -> OnnxFacts:
        try:
            return self._inspect(self._incoming / MAIN_FILE)
        except NotOnnx as error:
            raise self._not_onnx(error) from error

    def _check_not_decoder(self, facts: OnnxFacts) -> None:
        """Raises ConfigError for a graph that takes keys and values of earlier tokens, or positions, and gives logits for each
        token: a classifier gives them for each text."""
        inputs = {spec.name for spec in facts.inputs}
        of_tokens = any(spec.name == "logits" and len(spec.shape or ()) == 3 for spec in facts.outputs)
        if any(name.startswith("past") for name in inputs) or ("position_ids" in inputs and of_tokens):
            raise ConfigError(
                f"{self._source.label} looks like a model that generates text, and has no {GENAI_CONFIG}, which says how",
                hint="download a repository that has one (onnxruntime-genai in its name or tags), or make it: pip install "
                "onnxruntime-genai, python -m onnxruntime_genai.models.builder -m OWNER/REPO -o FOLDER -p int4 -e cpu",
            )

    def _copy_external(self, facts: OnnxFacts) -> None:
        folder, needed = posixpath.dirname(self._choice.main), 0
        paths = {}
        for location in facts.external:
            try:
                check_path(location)
            except ManifestError as error:
                outside = NotAllowed(f"its data would come from {location[:80]!r}, outside of the model's folder")
                raise self._not_onnx(outside) from error
            if location.casefold() in _OWN_FILES:
                raise self._not_onnx(NotAllowed(f"its data would come from {location}"))
            paths[location] = posixpath.join(folder, location)
            needed += self._source.size(paths[location])
        if needed:
            check_room(self._incoming, needed, f"the weights of {self._source.label}")
        for location, path in paths.items():
            self._copy(path, location)

    def _generation(self, facts: OnnxFacts, *, with_text: bool) -> dict[str, Any]:
        if not with_text:
            raise ConfigError(
                f"{self._source.label} has no {TOKENIZER_FILE}, without which a model cannot generate text",
                hint="save the model's tokenizer in the Hugging Face form (tokenizer.json) into its folder",
            )
        template = self._template()
        spec = find_generation(facts, self._settings, TOKENIZER_FILE, template)
        return {"kind": GENERATION, "generation": spec}

    def _template(self) -> str | None:
        """Copy chat_template.jinja, or write it from what tokenizer_config.json has; its path, None where there is neither."""
        data = read_small(self._source, self._choice.beside(TEMPLATE_FILE), CHAT_TEMPLATE_BYTES_MAX)
        data = find_template(self._settings) if data is None else data
        if data is None:
            return None
        written = PieceHashes()
        written.feed(data)
        (self._incoming / TEMPLATE_FILE).write_bytes(data)
        self._copied[TEMPLATE_FILE] = written
        return TEMPLATE_FILE

    def _settings(self, path: str) -> Any:
        return read_settings(self._source, self._choice.beside(path))

    def _copy_bounded(self, path: str, name: str, bytes_max: int) -> None:
        if self._source.size(path) > bytes_max:
            raise ConfigError(f"{path} of {self._source.label} is larger than {bytes_max} bytes")
        self._copy(path, name)

    def _copy(self, path: str, name: str, *, trusted: bool = False) -> None:
        with self._source.open(path, trusted=trusted) as file:
            self._progress.begin(f"copying {posixpath.basename(path)}", self._source.size(path))
            self._copied[name] = copy_file(file, self._incoming / name, progress=self._progress.advance)

    def _not_onnx(self, error: NotOnnx) -> ConfigError:
        if isinstance(error, NotAllowed):
            return ConfigError(
                f"{self._shown()} is not added, for what is in it: {error}",
                hint="export the model again, with ONNX's standard operators and all its data beside it",
            )
        return ConfigError(
            f"{self._shown()} is not an ONNX model: {error}",
            hint="give the path of an .onnx file, or of a folder with one",
        )

    def _checked(self, manifest: Manifest) -> Manifest:
        try:
            check_consistent(manifest)
            return parse_manifest(manifest.encode())
        except (ManifestError, UnicodeEncodeError) as error:
            raise ConfigError(f"{self._shown()} cannot be served: {error}") from error

    def _shown(self) -> str:
        return self._source.label if self._source.label.endswith(self._choice.main) else posixpath.join(self._source.label, self._choice.main)  # fmt: skip


def _check_wishes(label: str, kind: str, wishes: Wishes) -> None:
    """Raises ConfigError for what a model of this kind has no use for: it would be left out without a word."""
    if wishes.pooling is not None and kind in (CLASSIFICATION, GENERATION):
        what = "is a classifier: it gives scores" if kind == CLASSIFICATION else "generates text"
        raise ConfigError(
            f"{label} {what}, and has no vectors to pool: --pooling does not fit it",
            hint="leave --pooling out; it is for models that give a text's vector",
        )
    if wishes.state and kind != TENSOR:
        raise ConfigError(
            f"{label} is a model of kind {kind!r}, none that has state: --state does not fit it",
            hint="leave --state out; it is for models of tensors, which a single .onnx file is added as",
        )
