"""Videos in, numbers out. Knows no model."""
