"""One page of what was compared, evaluated and rendered: the command ``report``.

Comes in: folders of results. Goes out: ``report.html``, tables, plots. Reads what ``comparison`` and ``rendering``
leave on disk, and runs nothing.
"""
