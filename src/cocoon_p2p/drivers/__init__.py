"""Drivers run the effects of the state machines on the ports. They hold no decisions: those stand in proto/ and policy/."""
