"""What a user can mend."""


class StackError(Exception):
    """Something that stands in the way, in words for the user; printed without a traceback."""
