"""The one error of this room."""


class CampaignError(Exception):
    """A campaign, its settings or its directory cannot be used; the message is one sentence for its user."""
