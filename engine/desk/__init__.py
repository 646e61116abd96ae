"""Values become something a person reads."""
