"""What microscope software embeds: crops cells, runs the fused ensemble of a bundle, and votes.

Imports none of the other packages, and never torch. The names to use are re-exported by `blastscope`.
"""
