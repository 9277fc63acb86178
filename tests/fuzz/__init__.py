"""Fuzzing of the pure HTTP/1.1 part: `python -m tests.fuzz --seconds 600`. Property tests use its seeds and mutations."""
