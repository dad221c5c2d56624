"""Bounds on generating text (protocols/job/1 §10)."""

from __future__ import annotations

from cocoon_p2p.limits.sizes import GIB, KIB, MIB

GENERATION_REQUEST_BYTES_MAX = 4 * MIB
"""A million tokens of English, which is the largest context that models had in 2026."""
GENERATION_TOKENS_MAX = 1 << 20
"""Of prompt and answer together: likewise."""
GENERATION_MESSAGES_MAX = 4096
"""Of a chat, and as many tools."""
GENERATION_STOPS_MAX = 16
"""OpenAI takes 4; each costs a comparison a token."""
GENERATION_STOP_CHARS_MAX = 256
"""So much text may wait for whether a stop string goes on."""
GENERATION_LOGPROBS_MAX = 20
"""As in the OpenAI API."""
INSTALMENT_TOKENS = 64
"""What a client pays ahead of, and so what either side risks: half a second of a quick model."""
INSTALMENT_TOKENS_MIN = 16
"""Each half is acknowledged by a message with a signature, which costs a provider 0.2 ms: less than such an answer's tokens do."""
INSTALMENT_TOKENS_MAX = 1024
"""A second of a quick stream to a client half a second away."""
PIECE_BYTES_MAX = 256 * KIB
"""Plaintext of one frame: 64 tokens with 20 alternatives, whose texts may have 128 characters, as runs of blanks do."""
ANSWER_BYTES_PER_TOKEN = 256
"""Text of an answer in UTF-8, for each of its tokens: vocabularies in use have no longer one (128 blanks is the longest of GPT-4's and
Llama 3's), and what waits, for a character or a stop string, is text of tokens that were counted when they came."""
ANSWER_BYTES_MORE = 64 * KIB
"""Beyond that, in all: what a cluster may tell before it counts it (16,384 characters), and what an answer begun elsewhere held back
(GENERATION_STOP_CHARS_MAX)."""
STREAM_UNPAID_S = 15.0
"""How long a provider keeps a stream that waits for its client's word: a place among those that run is held meanwhile."""
STREAM_STALL_S = 30.0
"""Between two frames of an answer that is paid for: PROGRESS alone does not keep a client for longer."""
PROMPT_TOKENS_SLACK = 1024
"""A chat template adds tokens that the client did not write: 20 to 100 in 2026, more where it tells how tools are called."""
STREAM_MARKS_KEPT = 8
"""Acknowledgements of a stream that a client remembers: at most four can be under way when a connection breaks."""
FRAME_PADDING_BYTES = 64
"""A frame's length is a multiple of it, so that it does not tell the token's."""
GENERATION_SEED_BITS = 63
"""Of a seed that is drawn: what fits a signed 64-bit number."""
GENERATION_STOP_GRACE_S = 5.0
"""After a client has said STOP, for the last frame and the receipt: the worker stops within 0.1 s, the rest is the network's."""
GENERATION_TIMEOUT_TOKENS = 256
"""For each so many tokens of an answer a client waits [client] timeout_s, where it says nothing else: 4 a second at 60 s."""
RESUME_LOOK_MIN_S = 0.25
RESUME_LOOK_MAX_S = 5.0
"""How long an answer that lost its provider in the middle, and has no other, waits before it looks for one again; twice as long each
time. A node is back within seconds of a restart, and a look costs a lookup in the DHT (some 20 messages)."""
API_LINE_BYTES_MAX = 64 * MIB
"""Of the local API's answer, one line: the whole text of GENERATION_TOKENS_MAX tokens, of a dozen characters each escaped."""


# --- the provider's worker that generates ------------------------------------------------------------------------------
GENERATION_ROWS_MAX = 32
"""Answers decoded together: above it a CPU gains nothing (measured at 25 M parameters: 16 rows), a GPU would."""
GENERATION_KV_BYTES_MAX = 2 * GIB
"""Keys and values of all answers of one model: 32 answers of 500 tokens of an 8 B model (128 KiB a token)."""
GENERATION_WIDTH_MIN = 256
"""Tokens that a row of keys and values has room for at first; doubled when an answer outgrows it."""
GENERATION_PREFILL_S = 0.1
"""Work on prompts between two steps of the answers under way: as long as these may pause."""
GENERATION_PREFILL_ALONE_S = 0.25
"""The same where no answer is under way: a newcomer waits so long."""
GENERATION_PREFILL_TOKENS_MIN = 16
"""Of a prompt in one run: fewer make the weights' way through memory the bottleneck."""
GENERATION_PREFILL_TOKENS_MAX = 512
"""More gain nothing on a CPU, and their attention takes memory."""
GENERATION_LOGITS_BYTES_MAX = 64 * MIB
"""Of one run over a prompt: most graphs compute those of every token, of which the last is used."""
GENERATION_SCORES_MAX = 1 << 22
"""Tokens in a run × tokens looked back on: with 32 heads of 4 bytes, 512 MiB of attention scores."""
GENERATION_PREFIX_KEPT_S = 300.0
"""How long what was computed of a chat's turn waits for the next one: the time that a person reads and writes."""
GENERATION_PROMPT_CHARS_MAX = 8 * MIB
"""What a chat template may make of a request: twice the largest request."""
GENERATION_CHARS_PER_TOKEN_MAX = 64
"""A prompt of more characters for each token of the context is too long without being counted: English has 4 to 5."""
GENERATION_TOKEN_BYTES_MAX = 4 * KIB
"""Of one token's text; vocabularies in use have up to 256."""
GENERATION_ALTERNATIVE_CHARS_MAX = 64
"""Of the text of an alternative beside a token: twenty of them for 64 tokens must fit a few frames."""
GENERATION_AHEAD_ITEMS = 1024
"""Tokens that a worker may be ahead of who reads the answer."""
CHATS_REMEMBERED_MAX = 1024
"""By a client, who wrote their latest turn: more than a program talks to at once, at 100 bytes each."""
