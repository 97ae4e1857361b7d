"""What microscope software embeds: crops cells, runs the fused ensemble of a bundle, and votes.

Knows no other room and never imports torch. The names to use are re-exported by `blastscope`.
"""
