"""What a method is told and may do: Job, Policy, Session, the actions, where outputs are kept, what actions cost.

Comes in: a job before the loop, then every step and every branch. Goes out: compute, serve, forecast or leave out.
Methods by name (``registry.py``) and two methods in one generation are here, too; the methods themselves are in
``policies``. A place without room in the memory allowed is computed (``action_session.py``). Uses ``models`` (the
seam), ``settings``, ``common``.
"""
