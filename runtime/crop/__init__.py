"""The crop of section 2.2, specified in integers, so that every implementation gives the same bytes."""
