"""The room generation."""
