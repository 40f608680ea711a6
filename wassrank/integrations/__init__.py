"""The losses in other people's trainers: one module a framework, which imports it, and nothing here imports them.

A framework's conventions end in its module: the order of passages, `scale` or temperature, how labels come, what the
gradients of several processes are divided by. Docs: docs/integrations. Does it work in yours? `wassrank.testing`.
"""
