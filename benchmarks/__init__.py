"""Speed and memory, each module one command that ends with one JSON line."""
