import time
from pathlib import Path

import httpx2
import pytest
from fastapi.testclient import TestClient
from joserfc import jwt
from joserfc.jwk import KeySet
from pydantic import SecretStr

from scout_local.app import WRONG_SECRETS, create_app
from scout_local.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        issuer_key_file=tmp_path / "key.pem",
        issuer_url="http://127.0.0.1:9000",
        local_scout_client_id="collector",
        local_scout_client_secret=SecretStr("secret"),
        issuer_token_seconds=60,
    )


@pytest.fixture
def issuer(settings: Settings) -> TestClient:
    return TestClient(create_app(settings), raise_server_exceptions=False)


GRANT = {"grant_type": "client_credentials", "audience": "b14collector"}


def ask(issuer: TestClient, auth: tuple[str, str] | None = ("collector", "secret"), /, **form: str) -> httpx2.Response:
    return issuer.post("/oauth2/token", data={**GRANT, **form}, auth=auth)  # pyright: ignore[reportArgumentType] (Starlette passes None on; its type lacks it)


def test_a_token_is_signed_by_the_published_key(issuer: TestClient) -> None:
    answer = ask(issuer).json()
    assert (answer["token_type"], answer["expires_in"]) == ("Bearer", 60)
    discovery = issuer.get("/.well-known/openid-configuration").json()
    assert discovery["issuer"] == "http://127.0.0.1:9000"
    assert discovery["jwks_uri"].startswith(discovery["issuer"])
    keys = issuer.get(discovery["jwks_uri"].removeprefix(discovery["issuer"])).json()
    assert all("d" not in key for key in keys["keys"]), "the private half of the key is public"
    claims = jwt.decode(answer["access_token"], KeySet.import_key_set(keys)).claims
    assert (claims["iss"], claims["aud"], claims["sub"]) == ("http://127.0.0.1:9000", "b14collector", "collector")
    assert claims["exp"] - claims["iat"] == 60
    assert abs(claims["iat"] - time.time()) < 10


def test_the_credentials_may_come_in_the_form(issuer: TestClient) -> None:
    assert ask(issuer, None, client_id="collector", client_secret="secret").status_code == 200


@pytest.mark.parametrize("auth", [("collector", "wrong"), ("other", "secret"), ("", ""), None, ("ü", "ü")])
def test_wrong_credentials_are_refused(issuer: TestClient, auth: tuple[str, str] | None) -> None:
    answer = ask(issuer, auth)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    assert "WWW-Authenticate" in answer.headers


@pytest.mark.parametrize(
    ("form", "error"),
    [({"grant_type": "password"}, "unsupported_grant_type"), ({"audience": "other"}, "invalid_target")],
)
def test_other_grants_and_audiences_are_refused(issuer: TestClient, form: dict[str, str], error: str) -> None:
    answer = ask(issuer, **form)
    assert (answer.status_code, answer.json()["error"]) == (400, error)


def test_no_cache_keeps_an_answer(issuer: TestClient) -> None:
    for answer in (ask(issuer), ask(issuer, ("collector", "wrong")), ask(issuer, audience="other")):
        assert answer.headers["Cache-Control"] == "no-store"


def test_guesses_are_bounded_for_each_address(settings: Settings) -> None:
    app = create_app(settings)
    guesser, other = (TestClient(app, client=(address, 50_000)) for address in ("127.0.0.2", "127.0.0.3"))
    answers = [ask(guesser, ("collector", f"guess-{number}")).status_code for number in range(WRONG_SECRETS.amount)]
    assert set(answers) == {401}
    refused = ask(guesser)
    assert (refused.status_code, refused.json()["error"]) == (429, "slow_down")
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert ask(other).status_code == 200


def test_right_secrets_are_not_counted(issuer: TestClient) -> None:
    assert {ask(issuer).status_code for _ in range(2 * WRONG_SECRETS.amount)} == {200}


def test_a_web_page_neither_gets_a_token_nor_uses_up_the_guesses(issuer: TestClient) -> None:
    for number in range(2 * WRONG_SECRETS.amount):
        secret = "secret" if number % 2 else "wrong"
        page = {"Origin": "http://evil.example"}
        answer = issuer.post("/oauth2/token", data=GRANT, auth=("collector", secret), headers=page)
        assert (answer.status_code, answer.json()["error"]) == (403, "invalid_request")
    assert ask(issuer).status_code == 200


def test_a_token_outlives_a_restart_of_the_issuer(settings: Settings, issuer: TestClient) -> None:
    token = ask(issuer).json()["access_token"]
    again = TestClient(create_app(settings))
    keys = KeySet.import_key_set(again.get("/oauth2/jwks").json())
    assert jwt.decode(token, keys).claims["sub"] == "collector"


def test_the_key_is_readable_by_its_owner_only(settings: Settings, issuer: TestClient) -> None:
    assert settings.issuer_key_file.stat().st_mode & 0o077 == 0
