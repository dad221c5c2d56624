"""Models that come and go while a node runs. Part of `Node`; what it returns as rows is JSON as it stands."""

from __future__ import annotations

import trio

from cocoon_p2p.assembly import Parts
from cocoon_p2p.drivers.serving import Serving
from cocoon_p2p.errors import ConfigError
from cocoon_p2p.rows import Row, manifest_row, model_row


class NodeModels:
    """The part of `Node` that offers models and takes them back."""

    _parts: Parts

    async def serve_model(self, model: str) -> Row:
        """Load an installed model (a name, or an id) and offer it; one that is on offer already gets the name and prices that
        stand on the disk now. Raises CocoonError: NO_MODEL, ConfigError, ExecutionError."""
        serving = serving_of(self._parts)
        installed = await trio.to_thread.run_sync(self._parts.registry.get, model)
        await serving.serve(installed)
        return model_row(installed)

    async def unload_model(self, model: str) -> Row:
        """Offer a model no more and end its workers; jobs on it that are under way fail, and are not paid. Its files stay.
        {"model_id", "name", "was_offered"}. Raises CocoonError: NO_MODEL."""
        installed = await trio.to_thread.run_sync(self._parts.registry.get, model)
        serving = self._parts.serving
        offered = serving is not None and await serving.withdraw(installed.model_id)
        return {"model_id": installed.model_id, "name": installed.name, "was_offered": offered}

    async def describe(self, model: str) -> Row:
        """What a model on the market takes and gives, from its manifest, which its id is the hash of: "model_id", "name", "kind",
        "inputs", "outputs", "takes_text", "text_outputs", "labels" of a classifier, "state", "generation", "bytes", "license".
        Raises CocoonError: NO_MODEL, AMBIGUOUS."""
        found = await self._parts.moves.resolver.resolve(model)
        return {"model_id": found.model_id, "name": found.name, **manifest_row(found.manifest)}

    def served(self) -> dict[str, int]:
        """How many jobs of others were done here, as far as jobs are remembered, by model id."""
        return {str(model_id): count for model_id, count in self._parts.store.jobs.served().items()}


def serving_of(parts: Parts) -> Serving:
    """Raises ConfigError for a node that serves nobody."""
    if parts.serving is None:
        raise ConfigError(
            "this node serves nobody: [provider] serve is false",
            hint="set serve = true in node.toml and start the node again",
        )
    return parts.serving
