"""Answers each reading it is sent: the end of the trace."""
