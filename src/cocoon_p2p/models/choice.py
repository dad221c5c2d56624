"""Which of a source's files is the model to be added."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.models.source import GENAI_CONFIG, HUB_PREFIX, Source, read_settings

PREFERRED = ("model.onnx", "onnx/model.onnx")
_SHOWN_MAX = 12


@dataclass(frozen=True, slots=True)
class Choice:
    main: str
    """The graph, a path within the source."""
    settings: str
    """The folder where tokenizer.json, config.json and the like stand, "" for the top."""
    genai: bool
    """Whether genai_config.json in it says how the model generates text."""

    def beside(self, name: str) -> str:
        """Path of a file of settings."""
        return posixpath.join(self.settings, name)


def choose(source: Source, wanted: str | None = None) -> Choice:
    """`wanted`: an .onnx file, a genai_config.json, or a folder with one. Without it: genai_config.json at the top, model.onnx,
    onnx/model.onnx, or the only model that there is. Raises ConfigError that lists what there is."""
    if wanted is not None:
        return _wanted(source, wanted)
    if source.has(GENAI_CONFIG):
        return _genai(source, "")
    found = list(source.onnx_files())
    graphs = [path for path in found if path.endswith(".onnx")]
    top = [path for path in graphs if "/" not in path]
    preferred = [path for path in PREFERRED if path in graphs]
    if source.shallow and top:  # a folder of somebody's own: one model at its top, or none that could be meant
        preferred = top if len(top) == 1 else []
    elif not preferred and len(graphs) == 1:
        preferred = graphs
    folders = {posixpath.dirname(path) for path in found if posixpath.basename(path) == GENAI_CONFIG}
    if not preferred and len(folders) == 1 and {posixpath.dirname(path) for path in graphs} <= folders:
        return _genai(source, folders.pop())
    if not preferred:
        raise _ambiguous(source, found)
    return _plain(source, preferred[0])


def _wanted(source: Source, wanted: str) -> Choice:
    path = posixpath.normpath(wanted)
    if posixpath.basename(path) == GENAI_CONFIG and source.has(path):
        return _genai(source, posixpath.dirname(path))
    if path.endswith(".onnx") and source.has(path):
        return _plain(source, path)
    if source.has(posixpath.join(path, GENAI_CONFIG)):
        return _genai(source, path)
    raise _ambiguous(source, list(source.onnx_files()), missing=wanted)


def _plain(source: Source, main: str) -> Choice:
    folder = posixpath.dirname(main)
    if source.has(posixpath.join(folder, GENAI_CONFIG)):
        choice = _genai(source, folder)
        if choice.main == main:
            return choice
    beside = source.has(posixpath.join(folder, "tokenizer.json"))
    return Choice(main, folder if beside else "", genai=False)


def _genai(source: Source, folder: str) -> Choice:
    config = read_settings(source, posixpath.join(folder, GENAI_CONFIG))
    try:
        name = config["model"]["decoder"]["filename"]
    except (TypeError, LookupError):
        name = None
    # What the file says is a stranger's: a name, no way out of the folder.
    if not isinstance(name, str) or not name or name != posixpath.basename(name) or name.startswith("."):
        raise ConfigError(
            f"{posixpath.join(folder, GENAI_CONFIG)} of {source.label} names no single graph as model.decoder.filename",
            hint="models of several graphs (encoder and decoder, pipelines, pictures, speech) cannot be served",
        )
    return Choice(posixpath.join(folder, name), folder, genai=True)


def _ambiguous(source: Source, found: list[str], missing: str | None = None) -> ConfigError:
    shown = ", ".join(found[:_SHOWN_MAX]) + (f" and {len(found) - _SHOWN_MAX} more" if len(found) > _SHOWN_MAX else "")
    if missing is not None:
        what = f"{source.label} has no model {missing[:80]!r}"
        return ConfigError(f"{what}; it holds {shown or 'no .onnx file'}", hint="give one of them with --file")
    if not found:
        hint = "give the path of an .onnx file, or of a folder with one"
        if source.label.startswith(HUB_PREFIX):
            hint = "look for a repository that has the model as ONNX, often with -onnx or onnx-community in its name"
        return ConfigError(f"{source.label} holds no .onnx file", hint=hint)
    how = "give the file's path" if source.shallow else f"cocoon-node models add {source.label} --file {found[0]}"
    return ConfigError(f"{source.label} must hold exactly one .onnx file; it holds {shown}", hint=f"choose one: {how}")
