"""Learned detection: where white cells, red cells and platelets are, in a picture at the detector's working scale."""
