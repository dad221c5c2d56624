"""Being reached: what others see of our address, relays, hole punching, routers, and the local network."""
