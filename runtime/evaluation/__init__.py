"""How good the calls are: metrics, bootstrap intervals, validation on a site's own labels, drift."""
