"""What a user is told: one sentence that names the thing, what was found, and what to do."""


class UserError(Exception):
    """Bad input or usage. Its text is shown as it is, without a traceback; exit code 2."""


class UnreadableFile(UserError):
    """One file that cannot be read; a run over many files lists it and goes on."""

    def __init__(self, source: object, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source = str(source)
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.source, self.reason)
