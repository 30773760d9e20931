"""The ASGI application: the hot route, the framework for all else, and errors as documents or pages.

Decides who sees a problem document (programs) and who a page (people), by the address.
"""

from __future__ import annotations

from typing import Final

from litestar import Litestar, Response
from litestar.di import Provide
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException
from litestar.types import ASGIApp, Receive, Scope, Send

from server.http import api, bodies, openapi, problems, ranges, upload_routes, web, work
from server.http.api import Asked
from server.http.doors import Doors

_FOR_PROGRAMS: Final = ("/v1/", "/metadata/", "/healthz")


class Front:
    """Gives work requests to their own handler and everything else to the framework."""

    def __init__(self, doors: Doors) -> None:
        self._work = work.WorkRoute(doors.work, doors.room, doors.strangers)
        self._others: ASGIApp = framework(doors)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP and scope["path"] == work.PATH:
            await self._work(scope, receive, send)
        else:
            await self._others(scope, receive, send)


def framework(doors: Doors) -> Litestar:
    """The Litestar application with all handlers but the hot one."""

    def answer_error(request: Asked, error: Exception) -> Response[bytes] | Response[str]:
        return _answer_error(request, error, doors.project)

    return Litestar(
        route_handlers=[
            *api.HANDLERS,
            *upload_routes.HANDLERS,
            *web.HANDLERS,
            *openapi.HANDLERS,
        ],
        dependencies={"doors": Provide(lambda: doors, sync_to_thread=False, use_cache=True)},
        exception_handlers={Exception: answer_error},
        openapi_config=None,
        logging_config=None,
    )


def _answer_error(
    request: Asked, error: Exception, project: str
) -> Response[bytes] | Response[str]:
    if isinstance(error, bodies.Gone):
        return Response(b"", status_code=499)
    if isinstance(error, ranges.Unsatisfiable):
        return _unsatisfiable(error)
    problem = _problem(error)
    if request.method in ("GET", "HEAD") and not request.url.path.startswith(_FOR_PROGRAMS):
        return web.notice(problem.status, project)
    return _document(problem, error)


def _problem(error: Exception) -> problems.Problem:
    if isinstance(error, HTTPException):
        return problems.of_status(error.status_code, str(error.detail))
    return problems.of_error(error)


def _document(problem: problems.Problem, error: Exception) -> Response[bytes]:
    headers = problem.headers()
    if isinstance(error, HTTPException) and error.headers:
        headers.update(error.headers)
    media = headers.pop("Content-Type")
    return Response(problem.body(), status_code=problem.status, headers=headers, media_type=media)


def _unsatisfiable(error: ranges.Unsatisfiable) -> Response[bytes]:
    problem = problems.problem(416, "range_not_satisfiable", str(error))
    answer = _document(problem, error)
    answer.headers["Content-Range"] = f"bytes */{error.size}"
    return answer
