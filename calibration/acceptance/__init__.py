"""The gate: whether a quantised graph may ship, and the mixed-precision search that gets it through."""
