"""One file a peer, which `protocol.py` runs by its path in the peer's own environment; nothing imports them."""
