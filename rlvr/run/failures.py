"""What really failed, when several tasks were told to end because one did."""


def first_failure(error: BaseException) -> BaseException:
    """The first real failure inside an exception group, however deep; any other exception as it is."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
