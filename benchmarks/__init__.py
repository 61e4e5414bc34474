"""Benchmarks: each is registered once, run by name, and run small in CI. Figures go to RESULTS.md by hand, dated."""
