"""What cheats vest and what audits cost, by the rules of peers/credit/.

Read first: __main__.py.
"""
