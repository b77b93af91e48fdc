"""The traced graph, rewritten: exact in real numbers, each part in the form that the runtime runs fastest.

What each rewrite is and what it pays: docs/rewrites.md. Integer arithmetic (int8, int16) and float want some parts in
different forms; `integer` says which. A rewrite that a configuration has no use for does nothing there.
"""
