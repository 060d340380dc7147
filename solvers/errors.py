"""The one public error of this room."""


class ScheduleError(ValueError):
    """A schedule, a table, a file or an argument that cannot be used; the message is one sentence for the user."""
