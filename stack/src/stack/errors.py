"""What a user can mend."""


class StackError(Exception):
    """A problem that the user can solve, described for the user; printed without a traceback."""
