"""Which cells may be called: the judgement `not-lymphoid` against cells whose kind was seen, in many stains and cameras."""
