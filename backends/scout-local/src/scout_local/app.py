"""The issuer: client credentials in, signed tokens out (RFC 6749 section 4.4, OpenID Connect Discovery 1.0)."""

import secrets
import time
from pathlib import Path
from typing import Annotated
from uuid import uuid4

from fastapi import Depends, FastAPI, Form, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from scout_local.settings import Settings

ALGORITHM = "RS256"
# Wrong secrets per address and minute; after that, even the right secret is refused until the minute is over.
WRONG_SECRETS = RateLimitItemPerMinute(300)
# RFC 6749 section 5.1: no cache keeps a token.
NOT_KEPT = {"Cache-Control": "no-store", "Pragma": "no-cache"}


def load_key(path: Path) -> RSAKey:
    """The signing key, made at the first start and kept, so that tokens stay valid when the issuer restarts."""
    if not path.exists():
        key = RSAKey.generate_key(2048)
        path.touch(mode=0o600)
        path.write_bytes(key.as_pem(private=True))
    key = RSAKey.import_key(path.read_bytes())
    key.ensure_kid()
    return key


def refuse(status: int, error: str, description: str) -> JSONResponse:
    """An error answer in the form of RFC 6749 section 5.2."""
    more = {401: {"WWW-Authenticate": "Basic"}, 429: {"Retry-After": str(WRONG_SECRETS.get_expiry())}}
    body = {"error": error, "error_description": description}
    return JSONResponse(body, status, {**NOT_KEPT, **more.get(status, {})})


def create_app(settings: Settings) -> FastAPI:
    """Makes the issuer."""
    app = FastAPI(title="scout-local issuer")
    key = load_key(settings.issuer_key_file)
    basic = HTTPBasic(auto_error=False)
    guesses = MovingWindowRateLimiter(MemoryStorage())

    @app.post("/oauth2/token", response_model=None)
    def token(
        request: Request,
        response: Response,
        credentials: Annotated[HTTPBasicCredentials | None, Depends(basic)],
        grant_type: Annotated[str, Form()] = "",
        client_id: Annotated[str, Form()] = "",
        client_secret: Annotated[str, Form()] = "",
        audience: Annotated[str, Form()] = "",
    ) -> dict[str, str | int] | JSONResponse:
        """Grants a token to the only client."""
        # Browsers send this header with each POST of a page. No page should ask here, and its guesses are not counted.
        if "Origin" in request.headers:
            return refuse(403, "invalid_request", "a web page gets no token")
        address = request.client.host if request.client else ""
        if not guesses.test(WRONG_SECRETS, address):
            return refuse(429, "slow_down", "too many wrong secrets from this address")
        given_id = credentials.username if credentials else client_id
        given_secret = credentials.password if credentials else client_secret
        expected_secret = settings.local_scout_client_secret.get_secret_value()
        # Always compares both, so that the response time does not tell which one was wrong.
        right_id = secrets.compare_digest(given_id.encode(), settings.local_scout_client_id.encode())
        right_secret = secrets.compare_digest(given_secret.encode(), expected_secret.encode())
        if not (right_id and right_secret):
            guesses.hit(WRONG_SECRETS, address)
            return refuse(401, "invalid_client", "unknown client id or wrong secret")
        if grant_type != "client_credentials":
            return refuse(400, "unsupported_grant_type", "this issuer grants client_credentials only")
        if audience != settings.issuer_audience:
            return refuse(400, "invalid_target", f"the audience must be {settings.issuer_audience}")
        response.headers.update(NOT_KEPT)
        now = int(time.time())
        claims = {
            "iss": settings.issuer_url,
            "sub": given_id,
            "aud": audience,
            "iat": now,
            "exp": now + settings.issuer_token_seconds,
            "jti": str(uuid4()),
        }
        return {
            "access_token": jwt.encode({"alg": ALGORITHM, "kid": key.kid}, claims, key),
            "token_type": "Bearer",
            "expires_in": settings.issuer_token_seconds,
        }

    @app.exception_handler(HTTPException)
    def unreadable(request: Request, error: HTTPException) -> JSONResponse:
        """Answers an Authorization header that FastAPI could not read."""
        return refuse(error.status_code, "invalid_client", str(error.detail))

    @app.get("/.well-known/openid-configuration")
    def discovery() -> dict[str, str | list[str]]:
        """Returns the addresses of the endpoints, and how tokens are signed."""
        return {
            "issuer": settings.issuer_url,
            "token_endpoint": f"{settings.issuer_url}/oauth2/token",
            "jwks_uri": f"{settings.issuer_url}/oauth2/jwks",
            "grant_types_supported": ["client_credentials"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            "id_token_signing_alg_values_supported": [ALGORITHM],
            "response_types_supported": ["token"],
            "subject_types_supported": ["public"],
        }

    @app.get("/oauth2/jwks")
    def jwks() -> dict[str, object]:
        """Returns the public half of the signing key."""
        return dict(KeySet([key]).as_dict(private=False))

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        """Answers while the issuer runs."""
        return {"status": "ok"}

    return app
