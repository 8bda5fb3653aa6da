"""Audits: opening own claims to auditors, and replaying the claims of others.

It imports from training and the packages below it.

Read first: auditor.py.
"""
