"""One file a kind: what may be wanted of it, what is measured of it, and the table that says both."""
