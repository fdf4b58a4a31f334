"""The network seam's two implementations: `libp2p` (real peers) and `simulated` (a swarm in memory, in virtual time).

Nothing of libp2p's types or exceptions gets out of this package: what crosses is `protocols.transport`.
"""
