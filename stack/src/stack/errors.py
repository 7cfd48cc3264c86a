"""The error for problems that a user can fix."""


class StackError(Exception):
    """A problem that the user can solve, described for the user; printed without a traceback."""
