"""The one exception for mistakes that the person at the keyboard can mend."""


class UserError(Exception):
    """Bad input: a single line that names the file or flag, what is wrong and what to do.

    `run_sample.py` prints the message and leaves with exit code 2.
    """
