"""Statements of the exchange that bind their author: acts on disk, receipts, words on missing segments.

Read first: act_book.py, for how a crash makes no honest peer contradict itself.
"""
