"""What a generation would do, before it does it: the command ``plan``, for methods and for ranks.

Comes in: settings. Goes out: a plan's report, or a table of ways to split a clip. Uses ``jobs``, ``generation``,
``planning``, ``parallel``.
"""
