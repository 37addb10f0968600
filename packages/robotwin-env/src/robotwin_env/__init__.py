"""RoboTwin tasks behind Gymnasium: an embedded two-arm tabletop that needs no GPU."""
