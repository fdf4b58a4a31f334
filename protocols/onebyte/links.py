"""A member's own hash chains. Their secrets are signatures that nobody else can make, so that nothing need be kept:
whoever has the key finds the same chain again for the height it begins at."""

from __future__ import annotations

from typing import Final

from protocols.chain import limits
from protocols.chain.draws import HashChain
from protocols.chain.messages import Join, sign
from protocols.chain.rules import Rules
from protocols.chain.state import State
from protocols.chain.validity import in_force
from protocols.signatures import Signer
from verify.digest import digest_of

_DOMAIN: Final = b"gossipnode/links/1"
_HEIGHT_BYTES: Final = 8
_KEPT: Final = 2  # the one in force and the next; 5 MB each at the longest
RENEW_AT: Final = limits.LINKS * 3 // 4  # links used up: the rest is time for the next commitment to be heard


class Links:
    def __init__(self, signer: Signer, run: bytes, rules: Rules, data: bytes = b"") -> None:
        """`data`: what our joins say that we probe on."""
        self._signer, self._run, self._rules, self._data = signer, run, rules, data
        self._chains: dict[int, HashChain] = {}

    def join(self, height: int) -> Join:
        join = Join(height, self._at(height).tip, self._data, self._signer.peer, b"")
        return sign(join, self._signer, self._run)

    def reveal(self, state: State) -> bytes:
        """For a block on top of `state`; empty while no chain of mine is in force."""
        member, height = state.members.get(self._signer.peer), state.height + 1
        if member is None or not in_force(member, height):
            return b""
        return self._at(member.since).reveal(height)

    def _at(self, start: int) -> HashChain:
        if start not in self._chains:
            secret = digest_of(self._signer.sign(_DOMAIN, self._run, start.to_bytes(_HEIGHT_BYTES, "big")))
            length = max(2, min(limits.LINKS, self._rules.steps - start + 2))  # none is needed beyond the last block
            self._chains[start] = HashChain(secret, start, length)
            for old in list(self._chains)[:-_KEPT]:
                del self._chains[old]
        return self._chains[start]
