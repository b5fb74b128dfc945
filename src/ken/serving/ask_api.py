"""`POST /v1/ask`: a question in Ken's own words, and all that happened on the way to its answer."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from ken.core import Trajectory
from ken.serving.bodies import body_of, described
from ken.serving.completion import failed, summary
from ken.serving.disconnect import while_there
from ken.serving.errors import ErrorReply
from ken.serving.service import Ask, Service

router = APIRouter(prefix="/v1", tags=["Ken"])


@router.post(
    "/ask",
    response_model=Trajectory,
    openapi_extra=described(Ask),
    responses={
        502: {"model": ErrorReply, "description": "The model or an index failed; `trajectory` stands beside `error`."},
        504: {"model": ErrorReply, "description": "No answer within the server's time."},
    },
)
async def ask(request: Request, asked: Annotated[Ask, Depends(body_of(Ask))]) -> Response:
    """The full trajectory: steps, segments, usage; as in the files of `ken audit`. One that ended without an answer has
    no step of the kind `answer`."""
    service: Service = request.app.state.service
    request.state.log |= {"strategy": asked.strategy}
    request.state.log_texts["question"] = asked.question
    trajectory = await while_there(request, service.attempt(asked))
    request.state.log |= {"model": trajectory.model, **summary(trajectory)}
    request.state.log_texts["answer"] = trajectory.answer
    if trajectory.error:
        raise failed(trajectory, trajectory=trajectory.model_dump(mode="json"), param="question")
    return Response(trajectory.model_dump_json(), media_type="application/json")
