"""The kinds of work: who has made some rings for it, who does it listens."""

from enum import StrEnum


class Ring(StrEnum):
    """What can ring."""

    DELIVERIES = "deliveries"  # a delivery wants to be read
    OUTPUTS = "outputs"  # an output wants to be fetched
    MANIFESTS = "manifests"  # a prediction wants its manifest
    QUESTIONS = "questions"  # Replicate may have to be asked sooner than thought
    EVENTS = "events"  # an event wants its number
    FEED = "feed"  # the feed has grown
    PREDICTIONS = "predictions"  # some prediction is not as it was
