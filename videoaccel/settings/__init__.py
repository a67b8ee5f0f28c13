"""What users may ask for, as checked values: fields of commands, layers, YAML by name, named sizes (``sizes.py``).

Comes in: options, YAML, environment. Goes out: a frozen settings value. A new option of a command is a field here.
Nothing here needs torch. Uses ``common``.
"""
