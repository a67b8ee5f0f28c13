"""Networks that metrics look through, made from local files."""
