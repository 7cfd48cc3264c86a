"""The HTTP interface of echo."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import FastAPI, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, BeforeValidator, Field, FiniteFloat, TypeAdapter
from starlette.middleware.body_limit import RequestBodyLimitMiddleware

from echo.answers import Answers

# Room for more than a thousand readings; a larger body gets 413.
MAX_BODY_BYTES = 512 * 1024
# For the stored answers to repeated requests: about 16,000 readings.
KEPT_BYTES = 8 * 1024 * 1024


def text_only(value: object) -> object:
    """Refuses a number, which pydantic would read as seconds since 1970."""
    if not isinstance(value, str):
        raise ValueError("must be a string")
    return value


def number_only(value: object) -> object:
    """Refuses a string of digits, and true and false, which pydantic would read as numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number")
    return value


# JSON's integers are exact up to 2^53 - 1 (RFC 8259, section 6).
Integer = Annotated[int, Field(ge=0, le=2**53 - 1), BeforeValidator(number_only)]
Number = Annotated[FiniteFloat, BeforeValidator(number_only)]


class Reading(BaseModel):
    """What a sensor measured at one moment."""

    message_id: UUID
    device_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    sequence: Integer
    timestamp: Annotated[datetime, BeforeValidator(text_only)]
    temperature_c: Number
    humidity_pct: Number


Batch = Annotated[list[Reading], Field(min_length=1, max_length=1000)]


class Health(BaseModel):
    """That the service answers."""

    status: str = "ok"


Key = Annotated[str | None, Header(max_length=128, description="The same for each try of one request")]

as_json: TypeAdapter[Reading | Batch] = TypeAdapter(Reading | Batch)
answers = Answers(KEPT_BYTES)
app = FastAPI(title="echo", description="Answers each reading it is sent.")
app.add_middleware(RequestBodyLimitMiddleware, max_body_size=MAX_BODY_BYTES)


@app.post(
    "/echo",
    response_model=Reading | Batch,
    responses={400: {"description": "No JSON"}, 413: {"description": "Too large"}},
)
async def echo(readings: Reading | Batch, idempotency_key: Key = None) -> Response:
    """Sends the reading back, or an array of them; a request that comes again gets the answer to the first."""
    if idempotency_key is not None and (first := answers.get(idempotency_key)) is not None:
        return Response(first, media_type="application/json", headers={"Idempotent-Replayed": "true"})
    answer = as_json.dump_json(readings)
    if idempotency_key is not None:
        answers.keep(idempotency_key, answer)
    return Response(answer, media_type="application/json")


@app.get("/healthz")
async def healthz() -> Health:
    """Answers while the service runs."""
    return Health()


@app.exception_handler(RequestValidationError)
async def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
    """Says what is wrong, without the input: a NaN or a lone surrogate in it could not be sent back as JSON."""
    problems = [{"loc": problem["loc"], "msg": problem["msg"], "type": problem["type"]} for problem in error.errors()]
    return JSONResponse({"detail": problems}, status_code=422)
