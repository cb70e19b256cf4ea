"""Simulated hosts live in one SQL table (migration 0001), so that every worker process sees the same fleet."""
