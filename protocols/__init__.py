"""What peers say and how a round goes: wire, conversations, and the two seams (transport, learner)."""
