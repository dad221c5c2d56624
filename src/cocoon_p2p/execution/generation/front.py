"""From a request to an answer that can be worked on: template, tokens, bounds, guidance."""

from __future__ import annotations

from pathlib import Path

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.generation.answer import Answer
from cocoon_p2p.execution.generation.chat_template import ChatTemplate
from cocoon_p2p.execution.generation.guidance import Guides
from cocoon_p2p.execution.generation.sampling import Sampling
from cocoon_p2p.execution.generation.stops import AnswerText
from cocoon_p2p.execution.generation.tokens import TokenCodec
from cocoon_p2p.generation import GenerationRequest, parse_request
from cocoon_p2p.limits import CHAT_TEMPLATE_BYTES_MAX, GENERATION_AHEAD_ITEMS, GENERATION_CHARS_PER_TOKEN_MAX
from cocoon_p2p.models.generation_spec import GenerationSpec

_CHARS_PER_TOKEN = 8
"""English has 4 to 5: a longer text is looked at part by part first."""
_PART_CHARS_MIN = 4096
_AT_A_CUT = 64
"""So many more tokens a part may have than within its text, for the words that it cuts."""


class Front:
    """Of one model."""

    def __init__(self, folder: Path, spec: GenerationSpec) -> None:
        """Raises ValueError, or what the tokenizer's library raises, for files that are not what they should be."""
        self.spec = spec
        self.codec = TokenCodec(folder / spec.tokenizer)
        self._template: ChatTemplate | None = None
        if spec.template is not None:
            data = (folder / spec.template).read_bytes()
            if len(data) > CHAT_TEMPLATE_BYTES_MAX:
                raise ValueError(f"a chat template has at most {CHAT_TEMPLATE_BYTES_MAX} bytes")
            self._template = ChatTemplate(data.decode(), bos=spec.bos, eos=spec.eos)
        self._guides = Guides(self.codec, spec)

    def answer(
        self, number: int, request_json: str, *, client: bytes, items_max: int, allowed: int, now: float
    ) -> Answer:
        """`client` tells the chats of different clients apart; `allowed` counts only as far ahead as a reader may fall behind. Raises ExecutionError: INPUT, or ITEMS for a prompt that is too
        long for what was agreed or for the model."""
        request = parse_request(request_json)
        bound = min(items_max, self.spec.context)
        prompt = self._prompt_ids(request, bound)
        ids = [*prompt, *request.resume]
        if len(ids) > bound:
            what = "were agreed" if items_max < self.spec.context else "are the model's context"
            raise ExecutionError(f"the prompt has {len(ids)} tokens; {bound} {what}", code="ITEMS")
        if max(ids) >= self.spec.vocab:
            raise ExecutionError("a token of `resume` is not one of this model's", code="INPUT")
        shown = self.codec.tool_marks if request.tools else frozenset()
        return Answer(
            number=number,
            request=request,
            ids=ids,
            prompt_tokens=len(prompt),
            items_max=items_max,
            allowed=min(allowed, len(ids) + GENERATION_AHEAD_ITEMS),
            sampling=Sampling.of(request),
            text=AnswerText(self.codec, request.stop, shown=shown),
            guide=self._guides.of(request),
            key=(client, request.chat) if request.chat else None,
            begun_at=now,
            codec=self.codec,
            spec=self.spec,
        )

    def _prompt_ids(self, request: GenerationRequest, bound: int) -> list[int]:
        """All of them if there are at most `bound`. Raises ExecutionError(code="INPUT" or "ITEMS")."""
        if request.prompt is not None:
            text, special = request.prompt, True
        elif self._template is not None:
            text, special = self._template.render(request.messages, request.tools), False
        else:
            raise ExecutionError(
                "the model has no chat template", code="INPUT", hint="send a prompt instead of messages"
            )
        if self._is_far_longer(text, bound):
            raise ExecutionError(f"the prompt has {len(text)} characters; it may have {bound} tokens", code="ITEMS")
        ids = self.codec.encode(text, special=special)
        if not ids:
            raise ExecutionError("the prompt has no tokens", code="INPUT")
        return ids

    def _is_far_longer(self, text: str, bound: int) -> bool:
        """Whether it has more tokens than `bound`, as is soon known of most such texts: to count those of a whole one takes a second or
        more for each megabyte, in which no answer gets a token."""
        if len(text) > bound * GENERATION_CHARS_PER_TOKEN_MAX:
            return True
        size, least = max(bound, _PART_CHARS_MIN), 0
        if len(text) <= max(size, bound * _CHARS_PER_TOKEN):
            return False
        for start in range(0, len(text), size):
            least += max(0, len(self.codec.encode(text[start : start + size], special=False)) - _AT_A_CUT)
            if least > bound:
                return True
        return False
