"""Where events come from when no gateway is at hand: recorded traces and synthetic traffic."""
