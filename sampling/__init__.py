"""Who takes part: the view of the swarm, hash ranking, live sampling. Standard library and trio only."""
