"""The exceptions that msd_ray raises on purpose. Each message is one line that a user can act on."""


class MsdRayError(Exception):
    """Something went wrong that the user should read about; the CLI prints it and exits with `exit_code`."""

    exit_code = 1


class UserError(MsdRayError):
    """The input is wrong: a recipe, an argument, a path, too few resources."""

    exit_code = 2


class CorruptError(MsdRayError):
    """Stored bytes are not the bytes that were written."""


class TrainingError(MsdRayError):
    """A student or a teacher cannot go on training, and trying again would not help."""


class Stopped(MsdRayError):  # noqa: N818
    """This process was told to end, by SIGTERM or Ctrl-C."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def one_line(error: object) -> str:
    """What an exception, or any text, says, on one line."""
    return " ".join(str(error).split())


def named(error: BaseException) -> str:
    """The same after the name of its class, for exceptions that are not ours."""
    return f"{type(error).__name__}: {one_line(error)}"
