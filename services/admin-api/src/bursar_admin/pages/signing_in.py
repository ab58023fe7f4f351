"""Signing in with the admin token, where one is set: the browser gets a cookie instead of keeping the token."""

from __future__ import annotations

import msgspec
from aiohttp import web

from bursar_admin.desk import Desk
from bursar_admin.errors import bad_field, unauthorized
from bursar_admin.pages import session_cookie
from bursar_admin.pages.frame import Frame
from bursar_admin.requests import raw_body
from bursar_admin.routes import Route


def routes(desk: Desk, frame: Frame) -> list[Route]:
    async def page(request: web.Request) -> web.StreamResponse:
        view = frame.view(request)
        if not desk.access.has_token:
            raise web.HTTPSeeOther("/")
        return frame.shell(view, "", "sign_in.html", "Sign in", next=_own_path(request.query.get("next", "/")))

    async def sign_in(request: web.Request) -> web.Response:
        try:
            token = msgspec.json.decode(await raw_body(request), type=dict[str, str])["token"]
        except (msgspec.MsgspecError, KeyError):
            raise bad_field("token", "is required", None, "the admin token") from None
        cookie = desk.access.new_cookie(token)
        if not cookie:
            raise unauthorized("This is not the admin token. It is what BURSAR_ADMIN_TOKEN is set to.")
        response = web.json_response({"message": "Signed in."})
        https = request.secure or request.headers.get("X-Forwarded-Proto", "").lower() == "https"
        response.set_cookie(
            session_cookie.NAME, cookie, max_age=session_cookie.LASTS_S, httponly=True, samesite="Strict", secure=https,
            path="/",
        )  # fmt: skip
        return response

    async def sign_out(request: web.Request) -> web.Response:
        await raw_body(request)
        response = web.json_response({"message": "Signed out."})
        response.del_cookie(session_cookie.NAME, path="/")
        return response

    return [
        Route("GET", "/sign-in", page, "sign_in_page", "Sign in.", open_page=True),
        Route("POST", "/sign-in", sign_in, "sign_in", "The admin token for a cookie.", open_page=True),
        Route("POST", "/sign-out", sign_out, "sign_out", "The cookie is deleted.", open_page=True),
    ]


def _own_path(text: str) -> str:
    """A path of this site: never a way to another one."""
    good = text.startswith("/") and not text.startswith("//") and "\\" not in text and text.isprintable()
    return text if good else "/"
