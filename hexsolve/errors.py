"""The errors a caller can meet. Knows messages; knows nothing of what raised them."""


class InputError(ValueError):
    """Input that cannot be used: the message names the file, field or index, what was expected and what came."""
