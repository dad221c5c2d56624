"""What holds for all tests."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

# A busy machine is no fault of the code's. The same examples each time, so that the suite says the same each time;
# COCOON_TEST_EXPLORE=1 draws new ones.
EXPLORES = bool(os.environ.get("COCOON_TEST_EXPLORE"))
settings.register_profile(
    "cocoon", deadline=None, derandomize=not EXPLORES, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("cocoon")

# A shell without job control starts what runs in the background with SIGINT ignored, nohup with SIGHUP, and our nodes would
# inherit it: what they do on these signals is tested.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)
