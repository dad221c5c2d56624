"""State machines without IO: message, command or timer in, effects out. No clocks, no tasks, no vendor libraries."""
