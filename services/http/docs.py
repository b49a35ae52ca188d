"""/openapi.json, and /docs to look at it in a browser."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse, JSONResponse, Response

from services.http.caller import needs
from services.http.routes import API_KEY, BEARER, SIGNATURE, Router
from services.http.signature import HEADER

OPENAPI = "/openapi.json"
CDN = "https://cdn.jsdelivr.net"
SCHEMES = {
    BEARER: {"type": "http", "scheme": "bearer", "description": "An API key of `tandem keys add`, where keys are set."},
    API_KEY: {"type": "apiKey", "in": "header", "name": "X-Api-Key", "description": "The same key."},
    SIGNATURE: {"type": "apiKey", "in": "header", "name": HEADER, "description": "Made by a gateway, where it is set."},
}


def routes(app: FastAPI) -> Router:
    router = Router(include_in_schema=False, dependencies=[needs("admin")])

    @router.get(OPENAPI)
    async def openapi() -> Response:
        return JSONResponse(document(app))

    @router.get("/docs")
    async def docs() -> Response:
        page = get_swagger_ui_html(openapi_url=OPENAPI.lstrip("/"), title=app.title)
        return HTMLResponse(page.body, headers={"Content-Security-Policy": _policy(bytes(page.body).decode())})

    return router


def document(app: FastAPI) -> dict[str, Any]:
    """With the security schemes that the routes name."""
    described = app.openapi()
    described.setdefault("components", {})["securitySchemes"] = SCHEMES
    return described


def _policy(page: str) -> str:
    """Swagger UI from its CDN, and of inline scripts the page's own one."""
    inline = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in inline]
    scripts = " ".join(f"'sha256-{one}'" for one in hashes)
    return (
        f"default-src 'none'; script-src {CDN} {scripts}; style-src {CDN} 'unsafe-inline'; "
        "img-src data: https://fastapi.tiangolo.com; connect-src 'self'; frame-ancestors 'none'"
    )
