"""The page in headless Chromium, before the real Lambda stack, as a person with mouse, keyboard or
phone uses it.
"""

import io
import json
import shutil
import urllib.parse

import pytest
from colour_model import COLOURS, with_facts
from conftest import ROOT
from emulator import emulator
from handler_fixtures import local_gateway, local_server
from handler_process import Silent
from odd_images import (
    BREED,
    JPEG,
    TEXT,
    drawn_image,
    one_way_up,
    orientation_exif,
    saved,
    screenshot,
)
from PIL import Image

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="no playwright in this environment; see CONTRIBUTING.md"
)
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
if not CHROMIUM:
    pytest.skip("no chromium on this machine; see CONTRIBUTING.md", allow_module_level=True)

NAME = BREED.replace("_", " ").title()
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "color_scheme": "dark",
    "is_mobile": True,
    "has_touch": True,
}
DOG = {"name": "dog.jpg", "mimeType": "image/jpeg", "buffer": JPEG}
# Hands an image over as the clipboard or the mouse would; `kind` is the name of the event and its
# transfer.
HAND_OVER = """([kind, base64, text]) => {
  const transfer = new DataTransfer();
  if (text) transfer.setData("text/plain", text);
  else {
    const bytes = Uint8Array.from(atob(base64), letter => letter.charCodeAt(0));
    transfer.items.add(new File([bytes], "dog.jpg", {type: "image/jpeg"}));
  }
  const event = kind === "paste"
    ? new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true, cancelable: true})
    : new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true});
  document.body.dispatchEvent(event);
}"""


class Photos(Silent):
    """Serves an image at /dog.jpg and text elsewhere."""

    def do_GET(self) -> None:
        self.reply(JPEG if self.path == "/dog.jpg" else b"not an image")


@pytest.fixture(scope="module")
def photo_server():
    with local_server(Photos) as address:
        yield address


@pytest.fixture(scope="module")
def stack(explaining_model, photo_server):
    env = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "LOCAL_PORT": photo_server.rpartition(":")[2]}
    with emulator(explaining_model, "local_handler.lambda_handler", **env) as running:
        yield running


@pytest.fixture(scope="module")
def address(stack):
    with local_gateway(stack.endpoint) as address:
        yield f"{address}/"


@pytest.fixture(scope="module")
def browser():
    sync_api.expect.set_options(timeout=60_000)
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def visit(browser, address):
    """A function that opens the page in a fresh window; in the end none must have said anything on
    its console.

    `said` is what they have said so far, `loaded` the addresses that they have asked for.
    """
    said, loaded, contexts = [], [], []

    def open_page(**options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: loaded.append(request.url))
        page.goto(address)
        return page

    open_page.said, open_page.loaded = said, loaded
    yield open_page
    for context in contexts:
        context.close()
    assert said == []


def shown(page) -> str:
    """The heading of the next answer, once its image is there, too."""
    page.wait_for_selector("#result:not([hidden])")
    sync_api.expect(page.locator("#photo")).to_have_js_property("complete", True)
    return page.inner_text("#best")


def problem(page) -> str:
    """The next message of what went wrong."""
    page.wait_for_selector("#problem:not([hidden])")
    assert page.is_hidden("#result")
    return page.inner_text("#problem")


def test_classes_that_are_numbers_come_best_first(browser, colour_model, tmp_path):
    """JSON.parse puts names that are whole numbers first, in their own order."""
    model = with_facts(
        colour_model, tmp_path / "digits.tflite", classes=[str(number) for number in range(10)]
    )
    with emulator(model) as stack, local_gateway(stack.endpoint) as place:
        page = browser.new_page()
        page.goto(place)
        page.set_input_files("#file", DOG)
        assert shown(page) == str(list(COLOURS).index(BREED))
        page.close()


def test_what_is_sent_goes_by_the_content_and_stays_below_what_a_load_balancer_takes(visit, stack):
    sent = []
    page = visit()
    page.on("request", lambda request: sent.append(request.post_data_buffer or b""))
    drawn_image(400, 300).save(buffer := io.BytesIO(), "AVIF")
    page.set_input_files("#file", DOG | {"buffer": buffer.getvalue()})  # as websites name them
    assert shown(page) == NAME
    noise = Image.effect_noise((640, 600), 90).convert("RGB")
    noise.paste(COLOURS[BREED], (0, 0, 300, 300))
    content = saved(noise, format="PNG")
    assert 700_000 < len(content) < 1_000_000
    sent.clear()
    page.set_input_files("#file", {"name": "noise.png", "mimeType": "image/png", "buffer": content})
    sync_api.expect(page.locator("#photo")).to_have_js_property("naturalWidth", 640)
    assert shown(page) == NAME and 100_000 < max(map(len, sent)) < 1_000_000


def test_upload(visit, stack):
    page = visit()
    page.set_input_files("#file", DOG)
    assert shown(page) == NAME and page.is_hidden("#note")
    assert page.inner_text("#first li:first-child") == f"{NAME}\n100.0 %"
    assert page.locator("#first li").count() == 5 and page.locator("#rest li").count() == 5
    assert page.inner_text("#status") == f"{NAME}, 100.0 %"
    widths = page.eval_on_selector_all(
        ".bar", "bars => bars.map(bar => bar.getBoundingClientRect().width)"
    )
    track = page.eval_on_selector(".track", "track => track.getBoundingClientRect().width")
    assert widths[0] == pytest.approx(track) and widths[1] == pytest.approx(0, abs=1)
    assert page.locator("#photo").evaluate("image => image.naturalWidth") == 500
    assert stack.log()["bytes"] == len(JPEG), "what is small enough is sent as it is"
    assert [url for url in visit.loaded if not url.startswith(("blob:", "data:", page.url))] == []
    page.set_input_files("#file", [DOG])
    assert shown(page) == NAME, "the same file once more"


def test_one_request_loads_the_page(visit, address):
    visit().wait_for_load_state("networkidle")
    assert [url for url in visit.loaded if not url.startswith("data:")] == [address]


@pytest.mark.parametrize("orientation", [1, 6])
def test_photo_of_12_megapixels_is_sent_small_and_upright(visit, stack, orientation):
    image = (
        drawn_image(4000, 3000)
        if orientation == 1
        else drawn_image(4000, 3000).transpose(Image.Transpose.ROTATE_90)
    )
    photo = saved(image, format="JPEG", quality=98, exif=orientation_exif(orientation))
    page = visit()
    page.set_input_files(
        "#camera", {"name": "phone.jpg", "mimeType": "image/jpeg", "buffer": photo}
    )
    assert shown(page) == NAME
    assert stack.log()["size"] == [933, 700] and stack.log()["bytes"] < 300_000


def test_transparent_png_and_panorama(visit, stack):
    page = visit()
    image = Image.new("RGBA", (900, 900), (0, 0, 0, 0))
    page.set_input_files(
        "#file", {"name": "a.png", "mimeType": "image/png", "buffer": saved(image, format="PNG")}
    )
    assert shown(page) == "Great Pyrenees", "white, as the handler has it"
    image = Image.new("RGB", (9000, 900), COLOURS["samoyed"])
    page.set_input_files(
        "#file", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": saved(image, format="JPEG")}
    )
    sync_api.expect(page.locator("#best")).to_have_text("Samoyed")
    assert stack.log()["size"] == [2100, 210]


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_image_or_address_pasted_or_dropped(visit, photo_server, kind):
    page = visit()
    page.evaluate(HAND_OVER, [kind, TEXT, ""])
    assert shown(page) == NAME
    page = visit()
    page.evaluate(HAND_OVER, [kind, "", f" {photo_server}/dog.jpg\n"])
    assert shown(page) == NAME and page.input_value("#url") == f"{photo_server}/dog.jpg"
    assert page.locator("#photo").evaluate("image => image.naturalWidth") == 500
    page.evaluate(HAND_OVER, [kind, "", "no address"])
    assert page.is_visible("#result")


def test_address_by_keyboard_alone(visit, photo_server):
    page = visit()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    while page.evaluate("document.activeElement.id") != "url":
        page.keyboard.press("Tab")
    page.keyboard.insert_text(f"{photo_server}/dog.jpg")
    page.keyboard.press("Enter")
    assert shown(page) == NAME
    while page.evaluate("document.activeElement.id") != "explain":
        page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert page.is_visible("#map")


def test_what_is_wrong_is_said(visit, photo_server, stack):
    page, before = visit(), stack.printed()
    damaged = DOG | {"buffer": JPEG[:900]}
    for file in (damaged, {"name": "dog.jpg", "mimeType": "image/jpeg", "buffer": b"a dog"}):
        page.set_input_files("#file", file)
        assert (
            problem(page) == "This file is damaged, or the browser cannot open images of its type."
        )
    heic = {"name": "IMG_1.HEIC", "mimeType": "", "buffer": b"\0\0\0\x18ftypheic" + bytes(99)}
    for file in (heic, heic | {"name": "photo"}, heic | {"buffer": b"?"}):
        page.set_input_files("#file", file)
        sync_api.expect(page.locator("#problem")).to_contain_text("HEIC photos")
    assert stack.printed() == before, "nothing was sent"
    page.fill("#url", f"{photo_server}/text")
    page.click("text=Ask")
    sync_api.expect(page.locator("#problem")).to_contain_text("none of JPEG")
    page.route("**/*", lambda route: route.abort())
    page.set_input_files("#file", DOG)
    sync_api.expect(page.locator("#problem")).to_contain_text("does not answer")
    page.unroute("**/*")
    page.route(
        "**/*",
        lambda route: route.fulfill(status=413, body='{"Message": "Request must be smaller"}'),
    )
    page.set_input_files("#file", DOG)
    sync_api.expect(page.locator("#problem")).to_contain_text("(status 413)")
    assert all("Failed to load resource" in text for text in visit.said), (
        "the browser's own remarks on these answers"
    )
    visit.said.clear()


def test_unknown_breed(visit):
    page = visit()
    gray = saved(Image.new("RGB", (64, 64), (128, 128, 128)), format="PNG")
    page.set_input_files("#file", {"name": "gray.png", "mimeType": "image/png", "buffer": gray})
    assert shown(page).startswith("Looks most like ")
    note = page.inner_text("#note")
    assert note == "It may be a breed that the model does not know. The most similar are:"
    assert page.inner_text("#status") == f"{shown(page)}. {note}"


def test_candidates(visit):
    """The browser gets the answer from the test: a second image has one candidate alone."""
    page = visit()
    answer = {"prediction": {"maltese_dog": 0.6, "samoyed": 0.4}, "known": True}
    page.route("**/*", lambda route: route.fulfill(body=json.dumps(answer)))
    for candidates, title, status in (
        (["maltese_dog", "samoyed"], "Maltese Dog or Samoyed", "Maltese Dog or Samoyed"),
        (["maltese_dog"], "Maltese Dog", "Maltese Dog, 60.0 %"),
    ):
        answer["candidates"] = candidates
        page.set_input_files("#file", DOG)
        sync_api.expect(page.locator("#best")).to_have_text(title)
        assert page.inner_text("#status") == status


def test_says_how_the_image_was_seen(visit):
    page = visit()
    lying = saved(screenshot(one_way_up()).transpose(Image.Transpose.ROTATE_90), format="PNG")
    page.set_input_files("#file", {"name": "scan.png", "mimeType": "image/png", "buffer": lying})
    assert shown(page) == NAME
    assert page.inner_text("#note") == "Seen without its borders and turned by 90° clockwise."


def test_where_it_looked(visit):
    image = Image.new("RGB", (400, 300), COLOURS["samoyed"])
    image.paste(COLOURS["leonberg"], (200, 0, 400, 300))
    page = visit()
    page.set_input_files(
        "#file", {"name": "a.png", "mimeType": "image/png", "buffer": saved(image, format="PNG")}
    )
    assert shown(page) == "Samoyed" and page.is_hidden("#map")
    page.check("#explain")
    assert page.is_visible("#map")
    image, canvas = page.locator("#photo").bounding_box(), page.locator("#map").bounding_box()
    for side, start in (("width", "x"), ("height", "y")):
        assert canvas[side] == pytest.approx(0.875 * image[side], abs=1)
        assert canvas[start] - image[start] == pytest.approx(0.0625 * image[side], abs=1)
    path = "document.getElementById('map').getContext('2d').getImageData(0, 0, 10, 10).data"
    shades = list(page.evaluate(f"[...{path}]"))[3::4]
    assert shades == ([0] * 5 + [187] * 5) * 10


@pytest.mark.parametrize("options", [{}, PHONE], ids=["wide", "phone"])
def test_accessible_and_not_too_wide(visit, options):
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="no axe here; see CONTRIBUTING.md"
    ).Axe()
    page = visit(bypass_csp=True, **options)
    for state in ("start", "answer", "problem"):
        if state != "start":
            page.set_input_files("#file", DOG if state == "answer" else DOG | {"buffer": b"?"})
            shown(page) if state == "answer" else problem(page)
        if state == "answer":
            page.check("#explain")
            page.click("summary >> text=The other breeds")
        found = axe.run(page).response["violations"]
        assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found] == [], (
            state
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
        assert page.is_visible("#camera") == bool(options)


def test_without_javascript_the_form_asks_about_an_address(browser, address, photo_server):
    # Whose console is not silent: the answer has no icon
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert page.is_hidden("#drop") and "Without JavaScript" in page.inner_text("main")
    page.fill("#url", f"{photo_server}/dog.jpg")
    page.click("text=Ask")
    page.wait_for_url(f"{address}?url={urllib.parse.quote_plus(photo_server + '/dog.jpg')}")
    assert f'{{"prediction": {{"{BREED}": 1.0' in page.content()
    context.close()


def test_policy_stops_foreign_script(visit):
    page = visit()
    page.evaluate(
        "document.body.appendChild(document.createElement('script')).textContent = 'window.foreign "
        "= 1'"
    )
    assert page.evaluate("window.foreign") is None
    assert len(visit.said) == 1 and "Content Security Policy" in visit.said.pop()


def test_dark_where_the_phone_is_dark(visit):
    for options, dark in ((PHONE, True), ({}, False)):
        shot = visit(**options).screenshot()
        with Image.open(io.BytesIO(shot)) as image:
            assert (max(image.convert("RGB").getpixel((5, 5))) < 60) == dark
