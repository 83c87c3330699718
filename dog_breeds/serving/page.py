"""The page that a browser gets: page.html with the model's breeds in it, and the headers that keep
it safe.
"""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from dog_breeds.serving.http_events import HttpRequest, text_response

PAGE = Path(__file__).with_name("page.html")
OTHER_WORDS = {  # for a file whose classes are somebody's own
    "Which breed is this dog?": "What does this picture show?",
    "Give a picture of a dog, and see which breed it looks like.": (
        "Give a picture, and see what it looks most like."
    ),
    "Says which breed the dog in a picture is.": "Says what a picture shows.",
    "It may be a breed that": "It may be something that",
    "The other breeds": "The others",
    "The ${names.length} breeds that it knows": "The ${names.length} things that it knows",
}


def wants_page(request: HttpRequest) -> bool:
    """Return whether a browser asks for the page. With a URL in the query, it asks about a
    picture."""
    service = request.target == "" and request.method in ("GET", "HEAD")
    return service and "text/html" in request.accept and "url" not in request.query


def page_html(facts: dict, explains: bool, **more: Any) -> str:
    """Return the page for a model file that says this of itself; `more` is for its scripts."""
    html = PAGE.read_text(encoding="utf-8")
    if "cross_validation" in facts:  # it was made by teach.py
        for words, others in OTHER_WORDS.items():
            html = html.replace(words, others)
    # The page makes names for people from those of the breeds where the file has none.
    shown = {
        "breeds": facts["classes"],
        "names": facts.get("display_names", {}),
        "explains": explains,
        **more,
    }
    shown = json.dumps(shown).replace("<", r"\u003c")
    return html.replace('"application/json">{}<', f'"application/json">{shown}<', 1)


def page_response(request: HttpRequest, facts: dict, explains: bool) -> dict:
    """Return the response with the page for a model file that says this of itself."""
    html = page_html(facts, explains)
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
    """Return what lets the policy allow the one element of this name without attributes, and no
    other.
    """
    [content] = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.S)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
