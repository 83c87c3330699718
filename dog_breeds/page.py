"""The page that a browser gets: page.html with the model's breeds in it, and the headers that keep it safe."""

import base64
import hashlib
import json
import re
from pathlib import Path

from dog_breeds.http_events import HttpRequest, text_response

PAGE = Path(__file__).with_name("page.html")


def wants_page(request: HttpRequest) -> bool:
    """Return whether a browser asks for the page. With a URL in the query, it asks about a picture."""
    first = request.path == "/" and request.method in ("GET", "HEAD")
    return first and "text/html" in request.accept and "url" not in request.query


def page_response(request: HttpRequest, breeds: list[str], names: dict[str, str], explains: bool) -> dict:
    """Return the response with the page. Names for people are made from those of the breeds where `names` has none."""
    facts = json.dumps({"breeds": breeds, "names": names, "explains": explains}).replace("<", r"\u003c")
    html = PAGE.read_text(encoding="utf-8").replace('"application/json">{}<', f'"application/json">{facts}<', 1)
    policy = {
        "default-src": "'none'",
        "script-src": digest("script", html),
        "style-src": digest("style", html),
        "img-src": "blob: data: http: https:",  # pictures on the web whose address was given
        "connect-src": "'self'",
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }
    headers = {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": "; ".join(f"{name} {sources}" for name, sources in policy.items()),
        "Cache-Control": "no-cache",
        "Vary": "Accept",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return text_response(request, 200, headers, html)


def digest(tag: str, html: str) -> str:
    """Return what lets the policy allow the one element of this name without attributes, and no other."""
    [content] = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.S)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
