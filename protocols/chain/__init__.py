"""The chain of one-byte training: which bytes count, decided by what has been signed and never by when it arrived.

Start with `rules` (the numbers), `messages` (what is signed), `state` (what a block leaves behind), then `tree`:
`Chain` is the one mutable thing. A conversation feeds it `hear_entry`, `hear_block`, `hear_body`, `hear_change`; asks
others for what is `missing`, and with `locator` and `after` for what they have beyond; follows `plan` from the block
its A is at, telling it A's digest at checkpoints (`settle`), then calls `prune`; takes part with `enter` and
`propose`, journalling the `Promises` they return before anything is published; and hands what `take_faults` gives to
`verify.standing`. `checkpoints` says what a joiner is given and why it may believe it.

Rules that attacking the plan, or thinking the attack through, showed to be needed (tests/chain/arena.py):

* Ripeness. All members have a rank at every height, so without more those of last rank propose at once and win nearly
  all of them (measured, 5 of 16 hostile: 84 % of the blocks, 14 % of the honest entries void). So a block of rank r >
  0 is followed only once the conversation has `ripen`ed it, r deadlines after its parent was connected
  (`take_connected`), or once more than a third of the electors voted for it, one of whom is honest and has waited.
  Blocks that are read back from a journal are ripe.
* Two phases and a source in each vote (`finality`). A vote is for a checkpoint that lies `window` blocks deep, so
  that one block's fork at a checkpoint costs no certification. The digest of A is in the votes and not in a block, so
  that no proposer can spoil it.
* The choice of the tip starts at the highest justified checkpoint, not at the certified one: else members who have
  voted from it could be stuck on a branch on which they have no vote left.
* Seats are slices of one order an epoch, not draws a height: everybody sits equally often, so that votes stay fresh
  and a member is not asleep by bad luck.
* Reveals are bound to heights, not counted: whatever the branch, a member has one value for a height or keeps silent.
* A block names entries by seat, not by id (a byte each); a conversation's answer to a question for the tip carries
  the entries that are not `countable` for the asker yet, which with asking on every gap leaves 30 % message loss
  harmless.
* Equivocation is looked for above the certified checkpoint only; what is below can change nothing.

With the majority gone the chain goes on and nothing is certified. Certification needs that two thirds of the members
sit within an epoch (`rules.faults` checks it for the founders).
"""
