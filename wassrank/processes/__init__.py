"""A batch that several processes share: who has which of its queries and passages, and what they tell one another.

Every process calls the loss with its own queries and passages and gets the whole batch's loss. Backward gives it the
gradients that a single process holding the whole batch would have for *these* queries and passages: what other
processes' queries do to these passages is included, and nothing is counted twice. So the whole batch's gradient for a
model's weights is the *sum* of what the processes get by backpropagating from their own embeddings. A learnable
temperature is such a weight: each process has its share of its gradient.

DistributedDataParallel (and FSDP, ZeRO) *averages* gradients over the processes. There multiply the loss by their
number before backward:

    loss = loss_fn.from_embeddings(queries, passages, labels, gather=True)
    (loss * torch.distributed.get_world_size()).backward()

For reduction="sum" and "none" the same holds: the loss is the batch's sum, or this process's rows of it.
"""
