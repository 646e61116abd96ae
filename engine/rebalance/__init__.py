"""One book's program, its answer, and the proof that the answer is good."""
