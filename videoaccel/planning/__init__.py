"""Before a generation: calibrated errors (``prior.py``), measured costs, and plans of both.

Comes in: a prior (``shelf.py`` finds it), costs, a target. Goes out: an action for every step and place, its report and
its picture. A new way to choose anchors goes beside ``anchors.py``, chosen by a field of ``policies/soda.py``. Uses
``session``, ``sampling`` and the ground.
"""
