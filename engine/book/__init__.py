"""One book from before to after: measured against its mandate, rebalanced, certified."""
