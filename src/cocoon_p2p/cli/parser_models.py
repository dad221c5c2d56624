"""The arguments of the commands about models on this machine."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from cocoon_p2p.cli.parser_network import Commands

_ADD_EPILOG = (
    "With a tokenizer.json beside it a model takes texts: 1_Pooling/config.json says how an embedding model pools, config.json "
    "what a classifier's labels are. A folder of onnxruntime-genai (genai_config.json) generates text. A repository of a hub "
    "needs the library huggingface_hub; only the files that the model needs are fetched."
)


def add_models_commands(
    commands: Commands,
    nanogram: Callable[[str], int],
    network_options: Callable[[argparse.ArgumentParser], None],
) -> None:
    """`nanogram` reads an amount; `network_options` adds --bootstrap and --config."""
    models = commands.add("models", "cocoon_p2p.cli.models_list:run_list", "the models installed on this machine")
    actions = commands.below(models)
    add = actions.add(
        "add", "cocoon_p2p.cli.models_add:run_add", "install a model, and offer it when the node runs", epilog=_ADD_EPILOG
    )  # fmt: skip
    add.add_argument("path", metavar="PATH",
                     help="an .onnx file, a folder with one, or a repository hf:OWNER/REPO[@REVISION]")  # fmt: skip
    add.add_argument("--name", help="the name it is offered under (default: the file's)")
    _price_options(add, nanogram)
    add.add_argument("--file", metavar="FILE", help="which model of a folder or repository: onnx/model_fp16.onnx")
    add.add_argument("--pooling", choices=("mean", "cls", "max"),
                     help="how a text's vector is made of its tokens', where the files do not say it")  # fmt: skip
    add.add_argument("--state", metavar="INPUT=OUTPUT", type=_state, action="append",
                     help="a tensor that a recurrent model hands from one call to the next; repeatable")  # fmt: skip
    add.add_argument("--offline", action="store_true", help="of a repository, only what was downloaded before")
    add.add_argument("--hub-root", metavar="DIR",
                     help="a folder in place of the hub: DIR/OWNER/REPO/REVISION/files (default: $COCOON_HUB_ROOT)")  # fmt: skip
    pull = actions.add(
        "pull", "cocoon_p2p.cli.models_pull:run_pull", "fetch a model from peers, and offer it when the node runs",
        epilog="Every piece is verified against the model's id. What came is kept when it is broken off: the next pull goes on from there. "
        "Exit status 130 after Ctrl-C.",
    )  # fmt: skip
    pull.add_argument("model", metavar="MODEL", help="the id of a model, or what it is called on the market")
    pull.add_argument("--from", metavar="PEER", dest="source",
                      help="somebody who has it, asked beside those that are found: an id, its beginning or end, or a multiaddr")  # fmt: skip
    pull.add_argument("--name", help="what it shall be called here (default: as on the market)")
    network_options(pull)
    actions.add("list", "cocoon_p2p.cli.models_list:run_list", "the models installed on this machine")
    show = actions.add("show", "cocoon_p2p.cli.models:run_show", "all that is known of one model")
    show.add_argument("model", metavar="NAME_OR_ID")
    change = actions.add(
        "set", "cocoon_p2p.cli.models_set:run_set", "give an installed model another name or price, or share it no more",
        epilog="What is not given stays as it is. Of a running node the offer changes at once; jobs that have begun keep their price.",
    )  # fmt: skip
    change.add_argument("model", metavar="NAME_OR_ID")
    change.add_argument("--name", help="the name it is offered under")
    _price_options(change, nanogram)
    change.add_argument("--share", choices=("on", "off"), help="whether other nodes may fetch its files here")
    verify = actions.add(
        "verify", "cocoon_p2p.cli.models_verify:run_verify", "read every byte of the installed models",
        epilog="Exit status 1 when a model is damaged, with what to do about it.",
    )  # fmt: skip
    verify.add_argument("model", metavar="NAME_OR_ID", nargs="?", help="of this one only")
    remove = actions.add(
        "remove", "cocoon_p2p.cli.models_verify:run_remove", "delete an installed model from this machine",
        epilog="A running node offers it no more; jobs on it that are under way fail, and are not paid.",
    )  # fmt: skip
    remove.add_argument("model", metavar="NAME_OR_ID")


def _price_options(parser: argparse.ArgumentParser, nanogram: Callable[[str], int]) -> None:
    parser.add_argument("--price-base", metavar="NANOGRAM", type=nanogram, help="price of a job, whatever its size")
    parser.add_argument(
        "--price-per-item", metavar="NANOGRAM", type=nanogram,
        help="price of each item on top of it: a text, a row, or a token of a model that generates text",
    )  # fmt: skip


def _state(text: str) -> tuple[str, str]:
    into, equals, out = text.partition("=")
    if not (into and equals and out):
        raise argparse.ArgumentTypeError(f"{text!r} must be INPUT=OUTPUT: names of an input and an output of the model")
    return into, out
