"""An OAuth2 issuer on a laptop: the stand-in for Scout's token endpoint."""
