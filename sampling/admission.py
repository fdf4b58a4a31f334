"""Who may be sampled: the run's admission rules, applied to what a peer has registered. Pure.

An open run admits anyone who signs a registration, which stops nobody from making a thousand identities: it is for
experiments. An allow-list names the peers. In both, a newcomer is sampled only `delay_rounds` after it registered.
"""

from __future__ import annotations

from dataclasses import dataclass

from sampling.peers import PeerId, Role, Round
from sampling.view import Registration


@dataclass(frozen=True, slots=True)
class Rules:
    allow: frozenset[PeerId] | None = None  # None: open
    delay_rounds: int = 0
    activity_window: int = 50  # rounds (the paper's delta k)

    def admits(self, peer: PeerId) -> bool:
        return self.allow is None or peer in self.allow

    def eligible(self, registration: Registration, last_active: Round, round: Round) -> bool:
        """May this peer be in the committee of `round`? Founders (round 0) do not wait out the delay, nor does who
        registered later than `round`: a run that lost its newest models goes back, with the members that it has."""
        waits = 0 < registration.round <= round < registration.round + self.delay_rounds
        return (
            registration.present
            and Role.TRAINER in registration.roles
            and self.admits(registration.peer)
            and not waits
            and last_active >= round - self.activity_window
        )
