"""The engine's stage: real servers of every kind in a network namespace of their own, and the engine beside them.

`stage` is the whole of it. Who goes on it: see engine_plays.
"""
