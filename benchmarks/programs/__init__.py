"""The programs that are measured: each runs as a process of its own and prints what it measured as a line of JSON."""
