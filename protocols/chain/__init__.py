"""The chain of one-byte training: which bytes count, decided by what has been signed and never by when it arrived.

Start with `rules` (the numbers), `messages` (what is signed), `state` (what a block leaves behind), then `tree`:
`Chain` is the one mutable thing. A conversation feeds it `hear_entry`, `hear_block`, `hear_change`; asks others for
`missing`; follows `plan` from the block its A is at, telling it A's digest at checkpoints (`settle`), then calls
`prune`; takes part with `enter` and `propose`, journalling the `Promises` they return before anything is published;
and hands what `take_faults` gives to `verify.standing`. `checkpoints` says what a joiner is given and why it may
believe it.

What no pure rule can say is left to the conversation: a block of rank r is made, and one that is heard is handed in
while its parent is the tip, only when r deadlines have passed. Else the members of last rank, who can propose at once,
win every height; with it, being early buys nothing.
"""
