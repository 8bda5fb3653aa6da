"""What can be seen of a run: a page, an API, metrics, alerts and dashboards.

Each package imports only from those before it: swarm, evaluation, sources, metrics, web. It imports from
peers and recipes, never from trainer.

Read first: assembly.py.
"""
