"""The only floor that touches files; it knows tables, texts and hashes, not what they mean."""
