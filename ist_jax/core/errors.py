"""Error messages of one line."""


class ModelError(ValueError):
    """A model breaks a rule of `core.model.Model`. The message names the rule and the remedy."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message; the name of its class if the message is empty."""
    message = str(error).strip()
    return message.splitlines()[0] if message else type(error).__name__
