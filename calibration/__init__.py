"""Which cells set the int8 ranges, and whether the int8 graph may ship."""
