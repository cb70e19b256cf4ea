"""Benchmarks H1..H10: ours, peers and the floor, interleaved; results checked before a time is printed."""
