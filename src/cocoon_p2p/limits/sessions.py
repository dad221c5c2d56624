"""Bounds on state that stays at a provider between the calls of a session (protocols/job/1 §4.4)."""

from __future__ import annotations

from cocoon_p2p.limits.sizes import MIB

SESSION_ID_BYTES = 16
"""Drawn by the client: nobody guesses one, though a session is the client's own anyway."""
SESSIONS_PER_CLIENT_MAX = 64
"""As many as one client may have jobs running at one provider."""
SESSIONS_IN_ALL_MAX = 4096
"""What a session costs beside its state is below 1 KB."""
SESSION_BYTES_PER_CLIENT_MAX = 64 * MIB
"""The state of a large recurrent model (RWKV 7B: 32 layers of 64 heads of 64 x 64 float32) has 34 MB."""
SESSION_IDLE_MAX_S = 86_400.0
"""A day: longer than that a client keeps its state itself."""
