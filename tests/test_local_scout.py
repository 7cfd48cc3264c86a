"""The path to Scout: tokens, the gateway that checks them, and requests without a token."""

import re
import time
from collections.abc import Callable

import pytest
import requests
from joserfc import jwt
from joserfc.jwk import RSAKey

from harness import Stack, eventually
from stack.part import local_url


def grant(stack: Stack, secret: str | None = None, **form: str) -> requests.Response:
    settings = stack.settings
    given = settings.local_scout_client_secret.get_secret_value() if secret is None else secret
    return requests.post(
        local_url(settings.issuer_port, "/oauth2/token"),
        data={"grant_type": "client_credentials", "audience": "b14collector", **form},
        auth=(settings.local_scout_client_id, given),
        timeout=5,
    )


def send(stack: Stack, authorization: str | None) -> int:
    headers = {"Authorization": authorization} if authorization else {}
    url = local_url(stack.settings.gateway_port, "/v1/traces")
    return requests.post(url, json={"resourceSpans": []}, headers=headers, timeout=5).status_code


def test_the_gateway_takes_a_token_of_the_issuer_and_nothing_else(stack: Stack) -> None:
    token = grant(stack).json()["access_token"]
    assert send(stack, f"Bearer {token}") == 200
    assert send(stack, None) == 401
    assert send(stack, "Bearer nonsense") == 401
    assert send(stack, f"Bearer {token[:-4]}AAAA") == 401

    now = int(time.time())
    key = RSAKey.generate_key(2048, {"kid": "foreign"})
    claims = {"iss": local_url(stack.settings.issuer_port), "aud": "b14collector", "sub": "x", "exp": now + 60}
    assert send(stack, f"Bearer {jwt.encode({'alg': 'RS256', 'kid': 'foreign'}, claims, key)}") == 401


@pytest.mark.parametrize("claims", [{"exp": -60}, {"aud": "somebody-else"}, {"iss": "http://127.0.0.1:1"}])
def test_the_gateway_refuses_an_expired_token_and_one_for_others(stack: Stack, claims: dict[str, int | str]) -> None:
    key = RSAKey.import_key((stack.settings.run_dir / "issuer-key.pem").read_bytes())
    key.ensure_kid()
    now = int(time.time())
    good = {"iss": local_url(stack.settings.issuer_port), "aud": "b14collector", "sub": "x", "exp": now + 60}
    assert send(stack, f"Bearer {jwt.encode({'alg': 'RS256', 'kid': key.kid}, good, key)}") == 200
    bad = good | {name: now + value if isinstance(value, int) else value for name, value in claims.items()}
    assert send(stack, f"Bearer {jwt.encode({'alg': 'RS256', 'kid': key.kid}, bad, key)}") == 401


def scout_values(stack: Stack, **changed: str) -> dict[str, str]:
    """The four values for a stack whose Scout is another stack's local Scout."""
    settings = stack.settings
    return {
        "SCOUT_CLIENT_ID": settings.local_scout_client_id,
        "SCOUT_CLIENT_SECRET": settings.local_scout_client_secret.get_secret_value(),
        "SCOUT_TOKEN_URL": local_url(settings.issuer_port, "/oauth2/token"),
        "SCOUT_OTLP_ENDPOINT": local_url(settings.gateway_port),
        **changed,
    }


def test_the_four_values_send_to_scout_and_the_local_parts_stay_off(
    stack: Stack, new_stack: Callable[..., Stack]
) -> None:
    sender = new_stack(**scout_values(stack))
    sender.up()
    assert [name for name, _, _ in sender.runtime.states()] == [
        "mosquitto",
        "collector",
        "echo",
        "consumer",
        "producer",
    ]
    done = sender.run("verify")
    assert done.returncode == 0, done.stdout + done.stderr
    trace_id = re.search(r"Look up this trace in Scout: ([0-9a-f]{32})", done.stdout)
    assert trace_id
    assert eventually(lambda: len(stack.viewer.trace(trace_id[1])) == 4)
    sender.runtime.down()


def test_a_wrong_secret_is_called_a_failed_authentication(stack: Stack, new_stack: Callable[..., Stack]) -> None:
    sender = new_stack(**scout_values(stack, SCOUT_CLIENT_SECRET="wrong-secret"))
    sender.up()
    done = sender.run("verify")
    assert done.returncode == 1
    assert "broken at Collector → Scout: authentication failed" in done.stderr
    assert "invalid_client" in sender.runtime.log_text("collector")
    assert "wrong-secret" not in sender.runtime.log_text("collector") + done.stderr
    sender.runtime.down()
