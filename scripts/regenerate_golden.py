"""Writes every file of tests/golden anew. Run it when a format is changed on purpose, never to make a test pass: peers
of the old and the new version will not understand each other, so WIRE_VERSION changes with it.
"""

from __future__ import annotations

import hashlib
import json
import runpy
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from gossipnode.learn.kernels.signs import reference_sum, signs, words
from protocols import wire
from protocols.amendments import amend, present, sign
from protocols.chain import messages as chain
from protocols.chain.checkpoints import digest_of_state
from protocols.chain.draws import HashChain, drawn, first_beacon, genesis, next_beacon, seed64, slice_of, updates_of
from protocols.chain.messages import (
    Block,
    Changes,
    Contradiction,
    Entry,
    Head,
    Here,
    Join,
    Leave,
    Signed,
    TwoEntries,
    TwoHeads,
    Vote,
    WrongBytes,
)
from protocols.chain.rules import Rules
from protocols.chain.state import initial
from protocols.gossip.messages import AskNewest, AskWork, Doubted, NewestIs, NewModel, Offer, Part, Work, WorkIs
from protocols.manifest import Manifest, canonical, run_id, validated
from protocols.messages import (
    Ack,
    Aggregate,
    Aggregated,
    AnswerIs,
    AnyMessage,
    AskAnswer,
    AskEvidence,
    AskHead,
    AskManifest,
    Broken,
    Certificate,
    Committed,
    Compare,
    Compared,
    Computed,
    EvidenceIs,
    Exchange,
    Exchanged,
    HeadIs,
    Held,
    Hello,
    Input,
    Late,
    Link,
    ManifestIs,
    Ping,
    Pong,
    Proposal,
    Refused,
    Registered,
    Settled,
    TrainedModel,
    Twice,
    Unable,
    Voted,
    Welcome,
)
from protocols.onebyte.messages import (
    AskChain,
    AskSnapshot,
    AskVotes,
    Body,
    ChainIs,
    Lacking,
    NewBlock,
    NewChange,
    NewEntry,
    SnapshotIs,
    VotesAre,
    Whole,
)
from protocols.signatures import Signer
from sampling.peers import PeerId, Role, Round
from sampling.ranking import rank, ticket
from sampling.view import Delta, Registration
from verify import claims
from verify.claims import Answered, Claim, Merged, answerers, auditors, is_drawn, projection_seed, training_seed
from verify.digest import Digest, digest_of
from verify.lsh import Signature
from verify.simhash import Floats, Sketch
from verify.tokens import digest_of_tokens

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"

PEERS = [PeerId(f"12D3KooW{letter * 44}") for letter in "ABC"]
MODELS = [digest_of(bytes([number])) for number in range(4)]
RUN = digest_of(b"run")
REGISTRATION = Registration(
    PEERS[0],
    300,
    True,
    (Role.TRAINER, Role.AUDITOR),
    Round(70_000),
    ("/ip4/127.0.0.1/tcp/4001/p2p/" + PEERS[0], "/ip6/::1/tcp/4001/p2p/" + PEERS[0]),
    bytes(range(64)),
)
DELTA = Delta((REGISTRATION,), ((PEERS[0], Round(70_001)), (PEERS[1], Round(3))))
INPUTS = (Input(PEERS[0], MODELS[0], 120, b"s3/8 iid 7", bytes(64)), Input(PEERS[1], MODELS[1], 1))
AGGREGATE = Aggregate(Round(9), MODELS[2], MODELS[3], INPUTS, (PEERS[2],), bytes(64))
LINK = Link(Round(10), MODELS[0], MODELS[2], MODELS[1], PEERS[0], bytes(64))
VOTE = claims.Vote(PEERS[1], MODELS[3], False, bytes(34), bytes(range(34)), bytes(16), bytes(64))
TWICE = Twice(Round(9), MODELS[3], INPUTS[0], Input(PEERS[0], MODELS[1], 120))
BROKEN = Broken(Round(9), MODELS[0], bytes(64), VOTE)
THETA0 = Aggregate(Round(0), MODELS[0], Digest(b""), (), ())
ENTRY = Entry(9, MODELS[0], b"\x01\xff\x00\x7f", Vote(0, 8, MODELS[1]), PEERS[0], bytes(range(64)))
HEAD = Head(MODELS[0], 70_000, 3, bytes(32), (0, 8, 15), MODELS[1], MODELS[2], PEERS[0], bytes(range(64)))
JOIN, LEAVE = Join(7, MODELS[0], b"s3/8 iid 7", PEERS[0], bytes(64)), Leave(2**40, PEERS[0], bytes(64))
HERE = Here(0, PEERS[0], bytes(64))
WRONG = WrongBytes(ENTRY, (Contradiction(PEERS[1], b"\x05\x80", bytes(64)),))
BLOCK = Block(HEAD, Changes((JOIN,), (LEAVE,), (HERE,), (TwoEntries(ENTRY, ENTRY), TwoHeads(HEAD, HEAD), WRONG)))

OFFER = Offer(MODELS[0], Round(7), 120, 1500, MODELS[1], b"s3/8 iid 7", bytes(64))
WORK = Work((Part(PEERS[0], OFFER, 120), Part(PEERS[1], Offer(MODELS[2], Round(6), 1, 0), 2**53)))

MESSAGES: dict[str, AnyMessage] = {
    "hello": Hello(RUN, Round(9)),
    "hello of a newcomer": Hello(Digest(b""), Round(0)),
    "welcome": Welcome(RUN, Round(9)),
    "refused": Refused("no"),
    "ask manifest": AskManifest(),
    "manifest is": ManifestIs(b"signed"),
    "exchange": Exchange(Round(9), DELTA, 2**62),
    "compare": Compare(Round(9), (0, 2**62)),
    "compared": Compared(Round(9), (1,), DELTA, 3),
    "exchanged": Exchanged(Round(9), Delta(), 0),
    "ping": Ping(Round(9)),
    "pong": Pong(Round(2**40)),
    "registered": Registered(REGISTRATION),
    "trained model": TrainedModel(Round(9), MODELS[0], MODELS[1], 120, DELTA, b"s3/8 iid 7", bytes(64)),
    "ack": Ack(),
    "late": Late(AGGREGATE),
    "proposal": Proposal(Round(9), MODELS[3], INPUTS, (PEERS[2], PEERS[0]), bytes(64)),
    "computed": Computed(MODELS[2]),
    "aggregated": Aggregated(AGGREGATE, 0, DELTA),
    "aggregated again": Aggregated(THETA0, 64, Delta()),
    "settled": Settled(AGGREGATE),
    "unable": Unable(Round(9)),
    "committed": Committed(Round(9), MODELS[0], MODELS[1], bytes(64)),
    "voted": Voted(Round(9), VOTE),
    "ask evidence": AskEvidence((MODELS[0], MODELS[1])),
    "evidence is": EvidenceIs((Certificate(AGGREGATE, PEERS[0], True, LINK, (VOTE,)),), (TWICE, BROKEN)),
    "ask head": AskHead(),
    "new model": NewModel(OFFER, b"model"),
    "new model by name": NewModel(OFFER),
    "ask newest": AskNewest(),
    "newest is": NewestIs(OFFER),
    "ask work": AskWork(MODELS[0]),
    "work is": WorkIs(WORK),
    "doubted": Doubted(PEERS[0], OFFER, WORK),
    "head is": HeadIs(THETA0),
    "new entry": NewEntry.of(ENTRY),
    "new block": NewBlock.of(BLOCK),
    "new change, join": NewChange(JOIN),
    "new change, leave": NewChange(LEAVE),
    "new change, here": NewChange(HERE),
    "ask chain": AskChain((MODELS[0], MODELS[1]), (bytes(8),), (MODELS[2],), (Lacking(MODELS[3], (0, 127)),), True),
    "chain is": ChainIs(MODELS[0], 8, 2**40, (Whole(BLOCK, (ENTRY,)),), (Body(MODELS[1], (ENTRY,)),), (ENTRY,), True),
    "ask snapshot": AskSnapshot(),
    "ask snapshot further": AskSnapshot(MODELS[0], 131_072),
    "snapshot is": SnapshotIs(MODELS[0], 3, b"abc"),
    "ask votes": AskVotes((b"12345678",)),
    "votes are": VotesAre((claims.Vote(PEERS[1], MODELS[3], False, b"\x05\xff", b"", b"", bytes(64)),)),
    "ask answer": AskAnswer(b"input"),
    "ask answer of a model": AskAnswer(b"input", MODELS[2]),
    "answer is": AnswerIs(Held(Round(9), MODELS[2]), bytes(8), (Held(Round(0), MODELS[0]),), bytes(64)),
}


def wire_vectors() -> dict[str, str]:
    return {name: wire.encode(message).hex() for name, message in MESSAGES.items()}


def claim_vectors() -> dict[str, Any]:
    """What two versions must agree on to hold each other to what they claim."""
    claim = Claim(PEERS[0], Round(9), MODELS[3], b"s3/8 iid 7", MODELS[0], 120).statement
    return {
        "claim": claim.hex(),
        "merged": Merged(PEERS[2], Round(9), MODELS[3], MODELS[1], MODELS[2]).statement.hex(),
        "vote": VOTE.statement.hex(),
        "commitment": VOTE.commitment.hex(),
        "training seed": training_seed(RUN, Round(9), MODELS[3], PEERS[0]),
        "drawn": [is_drawn(model, claim, 0.5) for model in MODELS],
        "auditors": list(auditors(PEERS, MODELS[0], claim)),
        "answered": Answered(PEERS[0], Round(9), MODELS[2], MODELS[0], MODELS[1]).statement.hex(),
        "answerers": answerers(PEERS, MODELS[0], MODELS[1]),
        "projection seed": projection_seed(MODELS[0], claim, PEERS[1]).hex(),
    }


def ranking_vectors() -> list[dict[str, Any]]:
    names = [PeerId(f"12D3KooW{index:044}") for index in range(8)]
    return [
        _ranking("one peer", names[:1], Round(1), RUN),
        _ranking("round 0", names, Round(0), RUN),
        _ranking("round 1", names, Round(1), RUN),
        _ranking("round 2^40", names, Round(2**40), RUN),
        _ranking("another run", names, Round(1), digest_of(b"another run")),
        _ranking("no salt, names beyond ASCII", [PeerId("ä"), PeerId("b"), PeerId("ß")], Round(7), b""),
    ]


def _ranking(name: str, peers: list[PeerId], round: Round, salt: bytes) -> dict[str, Any]:
    order = rank(peers, round, salt)
    tickets = [ticket(peer, round, salt).hex() for peer in order]
    return {"name": name, "peers": peers, "round": round, "salt": salt.hex(), "order": order, "tickets": tickets}


def manifest_vectors() -> dict[str, Any]:
    """From the tables that the file holds."""
    tables = [vector["tables"] for vector in json.loads((GOLDEN / "manifest.json").read_text())["manifests"]]
    author = Signer.from_seed(bytes(32))
    signed = sign(
        Manifest(
            name="digits", protocol="modest", task="digits", author=author.peer, theta0="ab" * 32, model_bytes=1000
        ),
        author,
    )
    twice = amend(amend(signed, {"training.lr": 0.5, "rounds": 10}, author), {"training.lr": 0.25}, author)
    return {
        "manifests": [
            {"tables": each, "canonical": canonical(manifest).hex(), "run": run_id(manifest).hex()}
            for each in tables
            for manifest in [validated(each)]
        ],
        "signed": {
            "encoded": twice.encode().hex(),
            "run": twice.run.hex(),
            "present": msgspec.to_builtins(present(twice)),
        },
    }


def spsa_vectors() -> dict[str, Any]:
    """By the definition in `signs`, in 64 bits and one term after the other: no kernel has a part in it."""
    updates = 1000
    seeds = [_seed(f"gossipnode golden {i}") for i in range(updates)]
    coefficients = [(37 * i % 255 - 127) * (i % 5 + 1) for i in range(updates)]
    sums = {}
    for length in (1, 63, 64, 65, 4810, 16_385, 100_003):
        total = reference_sum(np.array(seeds, dtype=np.uint64), np.array(coefficients, dtype=np.int64), length)
        assert np.abs(total).max() < 2**31
        sums[str(length)] = digest_of(total.astype("<i4").tobytes()).hex()
    return {
        "seeds": "number I is the little-endian BLAKE2b-64 of 'gossipnode golden I'",
        "coefficients": "number I is (37 I mod 255 - 127) (I mod 5 + 1)",
        "streams": [
            {
                "seed": str(seed),
                "words": [f"{word:016x}" for word in words(seed, 0, 4).tolist()],
                "words from 2^40": [f"{word:016x}" for word in words(seed, 2**40, 2).tolist()],
                "signs": "".join("+" if sign > 0 else "-" for sign in signs(seed, 80)),
            }
            for seed in (0, 1_234_567, 2**63, 2**64 - 1, seeds[0])
        ],
        "updates": {
            "seeds": [str(seed) for seed in seeds[:3]],
            "coefficients": coefficients[:8],
            "count": updates,
            "digest of A by length": sums,
        },
    }


def lsh_vectors() -> dict[str, Any]:
    """By numpy, row by row: numba has no part in it."""
    seeds = [digest_of(f"gossipnode golden {number}".encode()) for number in range(2)]
    cases = [(1, 0, -4), (255, 0, -4), (257, 1, 20), (4810, 0, -30), (100_003, 0, -4), (100_003, 1, -140)]
    return {
        "vectors": "value I is ((40503 I^2 + 977 I) mod 65521 - 32760) 2^exponent as float32, I from 0",
        "seeds": "number I is the BLAKE2b-256 of 'gossipnode golden I'",
        "signatures": [
            {
                "length": length,
                "seed": seed,
                "exponent": exponent,
                "signature": bytes(_sketched(vector(length, exponent), seeds[seed])).hex(),
            }
            for length, seed, exponent in cases
        ],
        "tokens": [
            {"tokens": tokens, "digest": digest_of_tokens(tokens).hex()} for tokens in ([], [0], [1, 2**32 - 1, 50_000])
        ],
    }


def vector(length: int, exponent: int) -> Floats:
    index = np.arange(length, dtype=np.int64)
    return np.ldexp(((40503 * index**2 + 977 * index) % 65521 - 32760).astype(np.float32), exponent)


def _sketched(values: Floats, seed: bytes) -> Signature:
    sketch = Sketch(seed, compiled=False)
    sketch.add(values)
    return sketch.signature()


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def chain_vectors() -> dict[str, Any]:
    signers = [Signer.from_seed(bytes([number] * 32)) for number in range(5)]
    peers = tuple(signer.peer for signer in signers)
    one, two = digest_of(b"one"), digest_of(b"two")
    entry = Entry(9, one, b"\x01\xff\x00\x7f", Vote(0, 8, two), peers[0], b"")
    order = drawn(peers, RUN, first_beacon(RUN), b"rank", 7)
    links = HashChain(bytes(32), 5, 10)
    unsigned: dict[str, Signed] = {
        "entry": entry,
        "entry without a vote": Entry(1, one, b"\x81", None, peers[0], b""),
        "head": Head(one, 70_000, 3, bytes(32), (0, 8, 15), two, one, peers[0], b""),
        "join": Join(7, two, b"s3/8 iid 7", peers[0], b""),
        "leave": Leave(2**40, peers[0], b""),
        "here": Here(0, peers[0], b""),
    }
    return {
        "signed": {name: _signed(chain.sign(each, signers[0], RUN)) for name, each in unsigned.items()},
        "seed64": f"{seed64(RUN, one, 9, peers[0], 3):016x}",
        "updates": [[f"{seed:016x}", move] for seed, move in updates_of(entry, RUN, one, 5)],
        "drawn": [peers.index(peer) for peer in order],
        "slices": [[peers.index(peer) for peer in slice_of(order, step, 2)] for step in range(6)],
        "genesis": genesis(RUN).hex(),
        "beacon": next_beacon(first_beacon(RUN), b"reveal").hex(),
        "hash chain": [links.tip.hex(), links.reveal(7).hex()],
        "state": digest_of_state(initial(Rules(founders=peers, steps=1000, seats=3), RUN)).hex(),
    }


def _signed(signed: Signed) -> dict[str, str]:
    return {
        "payload": chain.payload(signed).hex(),
        "id": chain.id_of(signed).hex(),
        "signature": chain.signed_by(signed).hex(),
    }


def main() -> None:
    vectors_of = {
        "ranking": ranking_vectors(),
        "wire": wire_vectors(),
        "claims": claim_vectors(),
        "manifest": manifest_vectors(),
        "spsa": spsa_vectors(),
        "chain": chain_vectors(),
        "merging": runpy.run_path(str(GOLDEN.parent / "learn" / "merging_bits.py"))["digests"](),
        "lsh": lsh_vectors(),
    }
    for name, vectors in vectors_of.items():
        (GOLDEN / f"{name}.json").write_text(json.dumps(vectors, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
