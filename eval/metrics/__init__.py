"""One metric a file; its name in suites and results is the file's."""
