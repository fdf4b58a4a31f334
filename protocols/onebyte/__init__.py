"""One-byte training as a conversation over the chain of `protocols.chain`. Start with `conversation`: `OneByte` is the
member of a run; `book` is what its tasks share, `messages` what travels, `journal` what outlives a crash."""
