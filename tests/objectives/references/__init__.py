"""For each registered objective, a module of its name with two functions that the contract suite reads.

`reference(objective, state, batch, key) -> float` is the loss in NumPy float64, from the formula of the paper and what
the networks put out; `chance(objective, batch_size) -> float | None` the loss of embeddings that say nothing.
"""
