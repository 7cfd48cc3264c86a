"""An OAuth2 issuer on the laptop: the stand-in for Scout's token endpoint."""
