"""The real network: py-libp2p 0.8.1 behind `protocols.transport.Transport`. `transport.open_libp2p` is the way in."""
