"""The box: what is observed on it, what it should look like, and how it gets there and back.

Data flows once: config -> facts -> desired -> diff -> apply. `decide` and `nft` are pure; `facts` only looks; `apply`
is the one place that changes the box, after the journal says how to put it back. Nothing here explains or renders.
The daemon lives on these modules within 40 MB, so they import little.
"""
