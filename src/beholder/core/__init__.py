"""Types, errors, records and devices: what every other room may import, and what imports none of them."""
