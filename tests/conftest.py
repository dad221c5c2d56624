"""What holds for all tests."""

from __future__ import annotations

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell without job control starts what runs in the background so, and our nodes would inherit it: Ctrl-C is tested.
    signal.signal(signal.SIGINT, signal.default_int_handler)
