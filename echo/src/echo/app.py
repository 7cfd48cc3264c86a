"""The HTTP interface of echo."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, FiniteFloat


class Reading(BaseModel):
    """What a sensor measured at one moment."""

    message_id: UUID
    device_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    sequence: Annotated[int, Field(ge=0, lt=2**63)]
    timestamp: datetime
    temperature_c: FiniteFloat
    humidity_pct: FiniteFloat


Batch = Annotated[list[Reading], Field(min_length=1, max_length=1000)]


class Health(BaseModel):
    """That the service answers."""

    status: str = "ok"


app = FastAPI(title="echo", description="Answers each reading it is sent.")


@app.post("/echo")
async def echo(readings: Reading | Batch) -> Reading | Batch:
    """Sends the reading back, or an array of them."""
    return readings


@app.get("/healthz")
async def healthz() -> Health:
    """Answers while the service runs."""
    return Health()


@app.exception_handler(RequestValidationError)
async def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
    """Says what is wrong, without the input: a NaN or a lone surrogate in it could not be sent back as JSON."""
    problems = [{"loc": problem["loc"], "msg": problem["msg"], "type": problem["type"]} for problem in error.errors()]
    return JSONResponse({"detail": problems}, status_code=422)
