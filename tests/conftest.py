"""Fixtures for all tests; the services behind them start in `tests.services`, before Django."""
