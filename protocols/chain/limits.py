"""Every maximum of the chain that a peer could push against; those of one run (seats, probes, window) are in its Rules.

Whatever is signed by one member is bounded a height, whatever waits for something is bounded in all, so that rubbish
costs its sender more than it costs us.
"""

from __future__ import annotations

from typing import Final

HEIGHT: Final = 2**40  # one block a millisecond for 34 years
PROBES: Final = 256  # bytes of one entry
SEATS: Final = 64  # entries of one height
WINDOW: Final = 8  # blocks back that a base may lie: 5 steps of staleness were measured to cost nothing, 20 ruin a run
EPOCH: Final = 4096  # blocks between two checkpoints
MEMBERS: Final = 1000  # drawn, counted and signed for; a manifest's allow-list is as long
STAGES: Final = 1024  # of the multiplier schedule
MULTIPLIER: Final = 2**16
COUNTED: Final = 2 * SEATS  # entries of one block

# -- changes of membership in one block: about 250 bytes each, evidence 500 ---------------------------------------
JOINS: Final = 8
LEAVES: Final = 8
HERES: Final = 16
EXPULSIONS: Final = 4
CONVICTIONS: Final = 1  # of them by votes: 140 bytes each beside the bytes found, so that a block stays one gossip
CONTRADICTIONS: Final = 128  # votes of one: more than a third of up to 383 members; 48 KB with the longest entries
CHANGES_KEPT: Final = 256  # heard and not yet in a block, of each kind

# -- what waits ---------------------------------------------------------------------------------------------------
AHEAD: Final = 10_000  # heights above our tip that are listened to
ENTRIES_WAITING: Final = 8192  # whose base is not held: 2 MB
BLOCKS_WAITING: Final = 8192  # whose parent or entries are not held: 4 MB without what hangs on them
WAITING_PER_PEER: Final = 64  # of either kind, signed by one peer: a third of 300 members cannot fill the room of all
ENTRIES_PER_SEAT: Final = 2  # of one origin and height: two prove an equivocation; blocks may bring others
BLOCKS_PER_TURN: Final = 2  # of one proposer and height, likewise; another is let in when others build on it
REBUILDS: Final = 16  # combinations tried where equivocators left a choice, before the entries are asked for
LINKS: Final = 65_536  # of the hash chain a member commits to; one a height
CERTIFICATES: Final = 4096  # of one snapshot: one for each checkpoint at which the electorate changed
SNAPSHOT_BYTES: Final = 16 * 1024 * 1024
