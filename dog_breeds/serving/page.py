"""Make the page for browsers: page.html with the model's breeds in it, and its security headers."""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from dog_breeds.serving.http_events import HttpRequest, text_response

PAGE = Path(__file__).with_name("page.html")
OTHER_WORDS = {  # texts of the page for a file of teach.py, whose classes need not be breeds
    "Which breed is this dog?": "What does this photo show?",
    "Choose a photo of a dog to see which breed it looks like.": (
        "Choose a photo to see what it looks most like."
    ),
    "Says which breed the dog in a photo is.": "Says what a photo shows.",
    "It may be a breed that": "It may be something that",
    "The other breeds": "The others",
    "breeds that the model knows": "things that the model knows",
}


def wants_page(request: HttpRequest) -> bool:
    """Return whether a browser asks for the page, and not about the URL of an image."""
    service = request.target == "" and request.method in ("GET", "HEAD")
    return service and "text/html" in request.accept and "url" not in request.query


def page_html(facts: dict, explains: bool, **more: Any) -> str:
    """Return the page for a model file with these facts.

    `explains` is whether the file can explain its answers. `more` goes to the page's scripts.
    """
    html = PAGE.read_text(encoding="utf-8")
    if "cross_validation" in facts:  # teach.py made the file
        for old, new in OTHER_WORDS.items():
            html = html.replace(old, new)
    # If the file has no display names, the page makes them from the names of the classes
    values = {
        "breeds": facts["classes"],
        "names": facts.get("display_names", {}),
        "explains": explains,
        **more,
    }
    # No class name can end the script element, since "<" is escaped
    encoded = json.dumps(values).replace("<", r"\u003c")
    return html.replace('"application/json">{}<', f'"application/json">{encoded}<', 1)


def page_response(request: HttpRequest, facts: dict, explains: bool) -> dict:
    """Return the response with the page for a model file with these facts."""
    html = page_html(facts, explains)
    policy = {
        "default-src": "'none'",
        "script-src": digest("script", html),
        "style-src": digest("style", html),
        "img-src": "blob: data: http: https:",  # the page shows the photo at a given address
        "connect-src": "'self'",
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }
    headers = {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": "; ".join(
            f"{name} {sources}" for name, sources in policy.items()
        ),
        "Cache-Control": "no-cache",
        "Vary": "Accept",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return text_response(request, 200, headers, html)


def digest(tag: str, html: str) -> str:
    """Return the source expression that allows the page's one <tag> element, and no other."""
    [content] = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.S)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
