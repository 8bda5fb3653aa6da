"""Metrics for Prometheus, of the swarm and of one volunteer.

It imports from http, sources and what is below it.

Read first: spec.py, which declares every metric.
"""
