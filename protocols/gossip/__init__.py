"""Gossip learning: everybody trains at its own pace, pulls others' models and merges them; no committee, no rounds.
Start with `conversation`: `Gossip` is a node's part in a run; `trainer` does its work, `puller` brings models,
`neighbours` says from whom, `weights` how much each counts, `messages` what travels."""
