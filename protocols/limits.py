"""Every maximum that a peer could push against: its unit in its name, its reason beside it.

A limit that belongs to one run (committee sizes, time-outs, model size) stands in the manifest instead.
"""

from __future__ import annotations

from typing import Final

from verify.tally import LARGEST

KIB: Final = 1024
MIB: Final = 1024 * KIB

# -- the wire -----------------------------------------------------------------------------------------------------
FRAME_BYTES: Final = 256 * KIB  # one request or answer; the news of 500 honest peers fits
GOSSIP_BYTES: Final = 80 * KIB  # one pubsub message: the widest aggregate fits; the mesh multiplies it by its degree
CHUNK_BYTES: Final = MIB  # one read or write of a bulk stream: 1 MiB writes were the fastest measured over yamux

# -- one peer -----------------------------------------------------------------------------------------------------
PEER_CHARS: Final = 64  # a peer id as text; those of Ed25519 keys have 52
LINKS: Final = 256  # open connections; each costs about 1 MB and a dozen tasks
LINKS_KEPT: Final = 64  # beyond them, those that nothing has been asked over for LINK_IDLE_S are closed
LINK_IDLE_S: Final = 60.0  # committees change faster, and a peer that wants the link dials again
LINKS_CROWDED: Final = (
    3 * LINKS // 4
)  # from here on idle links give way after LINK_IDLE_CROWDED_S: newcomers need places
LINK_IDLE_CROWDED_S: Final = 10.0
ACCEPTS_PER_HOST_PER_S: Final = 20  # sockets taken from one address, sustained; a handshake costs five milliseconds
ACCEPTS_PER_S: Final = 100  # sockets taken, sustained, all addresses together
ACCEPTS_BURST_S: Final = 10.0  # a whole swarm on one machine starts at once
STREAMS_PER_PEER_PER_S: Final = 400  # opened by one peer: a question, a fetch or a gossip stream each
GOSSIP_PER_LINK_PER_S: Final = 500  # messages read from one neighbour; a faster one is read no faster
INBOUND_REQUESTS_PER_PEER: Final = 16  # being answered at once; honest peers ask two or three
INBOUND_REQUESTS: Final = 256  # being answered at once, all peers together
INBOUND_FETCHES_PER_PEER: Final = 4  # bulk streams served to one peer at once
INBOUND_FETCHES: Final = 64  # bulk streams served at once, all peers together
REQUESTS_PER_PEER_PER_S: Final = 200  # sustained; a round of 0.1 s with every kind of message is under 100
REQUESTS_PER_S: Final = 1000  # sustained, all peers together: one costs about a millisecond
ACTS_PER_PEER_PER_S: Final = 30  # sustained: questions on which we ask or fetch from others; three a round of 0.1 s
ACTS_PER_S: Final = 500  # sustained, all peers together: a committee of the largest size hands in twice a second
CHECKS_PER_PEER_PER_S: Final = 500  # signatures of registrations that one peer may make us check: 5 % of a core
CHECKS_PER_S: Final = 2000  # all peers together
CHECKS_BURST_S: Final = 25.0  # a newcomer is told a full view by its first peer
ACTS_BURST_S: Final = 2.0  # a quiet peer may ask so many seconds' worth at once, and all together too
FLOODS_PER_S: Final = 5  # offences of one peer, whatever they weigh, that are borne before its link is closed
FLOODS_BURST_S: Final = 20.0  # a hundred at once: an honest peer that is badly behind does less
GOSSIP_PER_PEER_PER_S: Final = 50  # messages that one peer may originate: two a round of 0.1 s that it aggregates
GOSSIP_PER_S: Final = 300  # messages heard, all originators together: more than a real mesh carries on two cores
GOSSIP_BURST_S: Final = 6.0  # a swarm that joins all at once says so at once
GOSSIP_QUEUE: Final = 256  # undelivered gossip a topic; beyond it the oldest is dropped and counted
LINK_EVENT_QUEUE: Final = 1024  # LinkUp / LinkDown not yet read; four times LINKS

# -- membership ---------------------------------------------------------------------------------------------------
VIEW_PEERS: Final = 10_000  # entries in a view; 300 B each
REGISTRATIONS_PER_FRAME: Final = 500  # in one message: about 300 B each, so that they fit FRAME_BYTES
BUCKETS: Final = 500  # in which two views are compared: 5 KB of seals, and a full view has twenty peers in each
DELTA_BYTES: Final = 128 * KIB  # news of a view in one message, beside an aggregate of at most 64 KiB
ADDRESSES_PER_PEER: Final = 8  # a host with both IP versions, a LAN and a public address has four
ADDRESS_CHARS: Final = 256  # one multiaddress as text
COUNTER: Final = 2**53  # join/leave counter: one a microsecond for 285 years, and exact in JSON
ROUND: Final = 2**40  # a round number: one a millisecond for 34 years

ACQUAINTED_S: Final = 10.0  # a node that was given addresses waits so long for a first peer before it joins regardless

# -- rounds -------------------------------------------------------------------------------------------------------
COMMITTEE: Final = 256  # trainers or aggregators of a round
ROUNDS_AHEAD: Final = 10_000  # how far a peer's word may move our idea of the present round in one step
ATTEMPTS: Final = 64  # times one starved round is asked for again before its number stops growing
SAMPLES: Final = 10**9  # examples a trainer may claim to have trained on

# -- audits -------------------------------------------------------------------------------------------------------
DATA_BYTES: Final = 40  # a shard's description: index/count partition seed, or a digest
APPEAL: Final = LARGEST  # auditors of an appeal at most
VOTES: Final = 3 * APPEAL  # in a certificate: half as many again may vote, and a liar both ways
OPEN_CASES: Final = 64  # claims under audit at once: of the rounds that a quick swarm does in one deadline
EVIDENCE: Final = 256  # certificates kept, and told in one message by digest; about 6 KB each
EVIDENCE_BYTES: Final = 128 * KIB  # of certificates in one answer
CLAIM_ROUNDS: Final = 16  # rounds for which a claim may still be audited, and its bytes are withheld from others

# -- questions to the model ---------------------------------------------------------------------------------------
QUESTION_BYTES: Final = (
    128 * KIB
)  # an input file: 167 images of 28 x 28 as bytes, or a long letter; it fits FRAME_BYTES
QUESTION_ROWS: Final = 256  # examples in one: a sentence costs an encoder's pass, which is 10 ms
OUTPUT_BYTES: Final = 64 * KIB  # of an answer: 16 inputs of a thousand classes
MODELS_OFFERED: Final = 32  # models that an answerer names as held: as many as it remembers (`protocols.head`)
ANSWERS_PER_PEER_PER_S: Final = 1  # sustained: a model's forward pass each, in the time of training
ANSWERS_PER_S: Final = 5  # sustained, all peers together
ANSWERS_BURST_S: Final = 10.0  # one asks a few in a row, then reads
ANSWERS_WAITING: Final = 8  # being computed or waiting for it: they are done one after another

# -- blobs --------------------------------------------------------------------------------------------------------
BLOB_BYTES: Final = 64 * 1024 * MIB  # one model; a run's own exact size, checked before a byte flows, is its theta0's
FETCH_BYTES_PER_S: Final = 8 * KIB  # slower sources are given up: 64 kbit/s, half of what yamux itself bears
FETCH_LOOK_S: Final = 10.0  # over which a source's speed is measured: longer than a hiccup, short beside a round
FETCH_SLOWER: Final = 8  # times slower than the usual source: another is tried first, and this one again at the end
MANIFEST_BYTES: Final = 64 * KIB  # a manifest with a long allow-list
AMENDMENTS: Final = 64  # of one manifest: checking them all must not hold up the event loop, 0.1 ms each

# -- verdicts -----------------------------------------------------------------------------------------------------
OFFENCES_KEPT: Final = 1000  # newest offences kept with their evidence; counts are kept beyond that
LINES_PER_S: Final = 0.1  # of the log, on one peer's offences; ten times as many on all peers' together
LINES_BURST_S: Final = 100.0  # the first ten are told at once
DETAIL_CHARS: Final = 200  # text a peer gives us for a log line
