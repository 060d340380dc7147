"""The one error of this room."""


class TeacherError(Exception):
    """Something about the model to imitate is missing or does not fit; the message is one sentence for its user."""
