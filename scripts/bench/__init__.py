"""What the benchmarks share: a swarm of real nodes to measure, what a process tree uses, and how figures are told."""
