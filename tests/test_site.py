"""The site of `make site` in headless Chromium: the same answers as the handler's, without one."""

import base64
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from colour_model import COLOURS, with_facts
from conftest import ROOT, exit_message, make
from handler_process import handler_process
from odd_images import BREED, JPEG, drawn_image, one_way_up, orientation_exif, saved, screenshot
from PIL import Image
from site_visits import BASE64, Files, IsolatedFiles, answer_of_page, host, loaded

from dog_breeds.clients import site
from dog_breeds.recipe import MODEL
from dog_breeds.serving import answers, explanation, pixels
from dog_breeds.serving.facts import read_facts
from dog_breeds.serving.page import OTHER_WORDS, PAGE

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="no playwright in this environment; see CONTRIBUTING.md"
)
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
if not CHROMIUM:
    pytest.skip("no chromium on this machine; see CONTRIBUTING.md", allow_module_level=True)
if not shutil.which("npm") and not (ROOT / ".litertjs").is_dir():
    pytest.skip("neither npm nor .litertjs here; see CONTRIBUTING.md", allow_module_level=True)

NAME = BREED.replace("_", " ").title()
PACKAGES = ROOT / ".litertjs"
DOG = {"name": "dog.jpg", "mimeType": "image/jpeg", "buffer": JPEG}
SIZE = 299
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "color_scheme": "dark",
    "is_mobile": True,
    "has_touch": True,
}


def test_every_text_to_replace_is_in_the_page():
    page = PAGE.read_text(encoding="utf-8")
    assert all(text in page for text in (*site.REPLACED_TEXTS, *OTHER_WORDS))


@pytest.fixture(scope="module")
def folder(explaining_model, tmp_path_factory) -> Path:
    """The site of a tiny model that can explain."""
    folder = tmp_path_factory.mktemp("sites") / "site"
    site.write_site(explaining_model, folder, PACKAGES)
    return folder


@pytest.fixture(scope="module")
def address(folder) -> Iterator[str]:
    with host(folder) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    sync_api.expect.set_options(timeout=30_000)
    with sync_api.sync_playwright() as playwright:
        # Browsers trust 127.0.0.1 without https, but not another name of this machine.
        args = ["--no-sandbox", "--host-resolver-rules=MAP site.example 127.0.0.1"]
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=args)
        yield running
        running.close()


@pytest.fixture
def visit(browser):
    """A function that opens an address in a browser that was never there before; in the end no page
    must have said anything on its console.

    `said` is what they have said so far, `loaded` the addresses that they have asked for.
    """
    said, loaded, contexts = [], [], []

    def open_page(address, context=None, **options):
        if not context:
            contexts.append(context := browser.new_context(**options))
        page = context.new_page()
        page.set_default_timeout(30_000)
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


@pytest.fixture(scope="module")
def ready(browser, address):
    """A page that has loaded its model, for tests that leave it as it is."""
    page = browser.new_page()
    page.add_init_script(BASE64)
    page.set_default_timeout(30_000)
    page.goto(address)
    assert loaded(page)["threads"] >= 1
    return page


def shown(page) -> str:
    """The heading of the next answer."""
    page.wait_for_selector("#result:not([hidden]), #problem:not([hidden])")
    assert page.is_hidden("#problem"), page.inner_text("#problem")
    return page.inner_text("#best")


def problem(page) -> str:
    """The next message of what went wrong."""
    page.wait_for_selector("#problem:not([hidden])")
    return page.inner_text("#problem")


def call(page, function: str, *arguments: object) -> object:
    """What a function of answers.js returns. Bytes and arrays go there, and come back, as bytes."""
    encoded = [
        {"bytes": base64.b64encode(value.tobytes()).decode(), "type": str(value.dtype)}
        if isinstance(value, np.ndarray)
        else value
        for value in arguments
    ]
    found = page.evaluate(
        """async ([address, name, encoded]) => {
          const types = {uint8: Uint8Array, float32: Float32Array};
          const decoded = encoded.map(value => value?.bytes === undefined ? value :
            new types[value.type](toBytes(value.bytes).buffer));
          if (name === "resize") {
            const [pixels, width, height, channels] = decoded.splice(0, 4);
            const row = width * channels;
            const strip = (start, end) => pixels.subarray(start * row, end * row);
            decoded.unshift({strip, width, height, channels});
          }
          const result = (await import(address))[name](...decoded);
          return result instanceof Uint8Array ? toText(result) : result;
        }""",
        [f"./{site_file(page, 'answers.js')}", function, encoded],
    )
    return np.frombuffer(base64.b64decode(found), np.uint8) if isinstance(found, str) else found


def site_file(page, name: str) -> str:
    return page.evaluate("name => site.files[name].address", name)


def outputs(page, value: np.ndarray) -> dict:
    """What the model in the page's worker makes of pixels; its tensors as lists."""
    return page.evaluate(
        """async text => {
          const result = await callWorker("run", toBytes(text));
          return Object.fromEntries(Object.entries(result).map(([name, value]) =>
            [name, ArrayBuffer.isView(value) ? [...value] : value]));
        }""",
        base64.b64encode(value.tobytes()).decode(),
    )


def seen(page, content: bytes) -> np.ndarray:
    """The pixels that the browser makes of a file for the model."""
    text = page.evaluate(
        """async text => {
          const image = await decodeImage(new Blob([toBytes(text)]));
          return toText(await callWorker("modelPixels", image, [image.bitmap]));
        }""",
        base64.b64encode(content).decode(),
    )
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(SIZE, SIZE, 3)


# --- The folder -----------------------------------------------------------------------------------


def test_folder_holds_all_that_the_page_needs(folder, explaining_model):
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    litert = {f"{site.LITERT}/{v}_internal.{end}" for v in site.VARIANTS for end in ("js", "wasm")}
    scripts = {"site.js", "worker.js", "answers.js", "service-worker.js"}
    assert names == {"index.html", "model.tflite", f"{site.LITERT}/litert.js"} | scripts | litert
    assert (folder / "model.tflite").read_bytes() == explaining_model.read_bytes()
    page = (folder / "index.html").read_text()
    assert "stays on this device" in page and "before it sends it" not in page
    own = [page, *((folder / name).read_text() for name in scripts)]
    hosts = set(re.findall(r"https?://[\w.]+", "".join(own))) - {"http://www.w3.org"}
    assert hosts == set()
    assert len(page.encode()) < 30_000


def test_site_is_replaced_and_no_other_folder(folder, colour_model, tmp_path):
    shutil.copytree(folder, tmp_path / "site")
    (tmp_path / "site/old.txt").write_text("of an older version")
    site.write_site(colour_model, tmp_path / "site", PACKAGES)
    assert not (tmp_path / "site/old.txt").exists()
    assert (tmp_path / "site/model.tflite").read_bytes() == colour_model.read_bytes()
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/to_anna.txt").write_text("Dear Anna")
    with pytest.raises(ValueError, match="is not a site; use another --output"):
        site.write_site(colour_model, tmp_path / "letters", PACKAGES)
    assert {path.name for path in tmp_path.iterdir()} == {"site", "letters"}


def test_every_refusal_is_a_sentence(colour_model, tmp_path, monkeypatch):
    words = ("--output", tmp_path / "site", "--packages", tmp_path / "packages")
    foreign, damaged = tmp_path / "foreign.tflite", tmp_path / "damaged.tflite"
    foreign.write_bytes(b"a model of somebody else")
    content = bytearray(colour_model.read_bytes())
    content[1000] ^= 1
    damaged.write_bytes(content)
    for model in (foreign, damaged, tmp_path / "missing.tflite"):
        assert model.name in exit_message(monkeypatch, site, "--model", model, *words)
    monkeypatch.setenv("PATH", "")
    said = exit_message(monkeypatch, site, "--model", colour_model, *words)
    assert "npm is needed once, to download @litertjs/core@2.5.3; install Node.js" in said
    (tmp_path / "packages/litertjs-core-2.5.3.tgz").write_bytes(b"another package")
    said = exit_message(monkeypatch, site, "--model", colour_model, *words)
    assert "litertjs-core-2.5.3.tgz differs from the published @litertjs/core@2.5.3" in said
    assert not (tmp_path / "site").exists() and not list(tmp_path.glob(".part-*"))


def test_make_site(tmp_path):
    done = make("site", f"SITE={tmp_path / 'site'}")
    assert done.returncode == 0 and done.stderr == "", done.stdout + done.stderr
    assert re.search(r"site: \d+ MB, of which a browser loads 33 MB once\n", done.stdout)
    assert "python -m http.server" in done.stdout


# --- The logic, against Python --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "height", "channels", "size", "share"),
    [
        (500, 375, 3, 299, 0.875),
        (37, 1200, 4, 150, 0.875),
        (299, 299, 3, 299, 1),
        (40, 31, 3, 99, 0.9),
    ],
)
def test_resize_is_pillows_to_the_bit(ready, width, height, channels, size, share):
    values = np.random.default_rng(width).integers(0, 256, (height, width, channels), np.uint8)
    found = call(ready, "resize", values.ravel(), width, height, channels, size, share)
    image = Image.fromarray(np.ascontiguousarray(values[..., :3]))
    expected = np.asarray(pixels.resize(image, size, share))
    assert np.array_equal(np.reshape(found, (size, size, 3)), expected)


def bordered(seed: int) -> np.ndarray:
    """Noise within borders of one colour, or nearly; sometimes without any."""
    random = np.random.default_rng(seed)
    image = np.full((SIZE, SIZE, 3), random.integers(0, 256, 3), np.uint8)
    image = image + random.integers(0, 1 + 8 * (seed % 3), image.shape, np.uint8)
    top, left = random.integers(0, 120, 2)
    height, width = random.integers(20, 299, 2)
    inside = image[top : top + height, left : left + width]
    inside[:] = random.integers(0, 256, inside.shape, np.uint8)
    return image.astype(np.uint8)


def test_borders_are_found_and_cut_off_alike(ready):
    found = []
    for seed in range(30):
        image = bordered(seed)
        box = answers.inside_borders(image.astype(np.float32))
        assert call(ready, "insideBorders", image.ravel(), SIZE) == (list(box) if box else None)
        found.append(box)
        if box and len(list(filter(None, found))) <= 3:
            inside = call(ready, "cutOut", image.ravel(), list(box), SIZE)
            expected = answers.cut_out(image.astype(np.float32), box)
            assert np.array_equal(np.reshape(inside, expected.shape), expected)
    assert 5 < sum(box is not None for box in found) < 30


def test_turns_and_places_of_cells_are_alike(ready):
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (7, 7, 3), np.uint8)
    cells = random.random((10, 10)).astype(np.float32).round(3)
    for turns in (1, 2, 3):
        turned = call(ready, "quarterTurns", image.ravel(), turns, 7, 3)
        assert np.array_equal(np.reshape(turned, image.shape), np.rot90(image, -turns))
    for box in (None, (0.1, 0.25, 0.8, 0.75), (0.0, 0.5, 1.0, 0.9)):
        for turned in (0, 90, 180, 270):
            expected = explanation.place_in_image(cells.tolist(), box, turned)
            found = call(ready, "placeInImage", cells.ravel().tolist(), box, turned)
            assert np.allclose(found, expected)
    weights = random.normal(size=2048).astype(np.float32)
    features = random.random((10, 10, 2048)).astype(np.float32)
    found = call(ready, "evidence", features.ravel(), weights)
    assert np.allclose(found, explanation.evidence(features, weights).ravel(), atol=6e-4)


# --- The same answers -----------------------------------------------------------------------------


def jpeg(image: Image.Image, **options: object) -> bytes:
    return saved(image, format="JPEG", quality=95, **options)


def png(image: Image.Image) -> bytes:
    return saved(image, format="PNG")


def halves(left: str, right: str) -> Image.Image:
    image = Image.new("RGB", (400, 300), COLOURS[left])
    image.paste(COLOURS[right], (200, 0, 400, 300))
    return image


def test_answers_are_the_handlers(ready, explaining_model):
    lying = screenshot(one_way_up()).transpose(Image.Transpose.ROTATE_90)
    images = [
        JPEG,
        png(halves("samoyed", "leonberg")),
        png(Image.new("RGB", (64, 64), (128, 128, 128))),  # unknown, and unknown when turned
        png(screenshot(drawn_image())),
        png(one_way_up().transpose(Image.Transpose.ROTATE_180)),
        png(lying),
        jpeg(one_way_up(), exif=orientation_exif(6)),
        png(Image.new("RGB", (64, 64), (67, 41, 20))),  # between two breeds
    ]
    seen_as = []
    with handler_process(explaining_model) as ask:
        for content in images:
            text = base64.b64encode(content).decode()
            expected = ask({"image": text, "explain": True}).answer
            found = answer_of_page(ready, content)
            assert list(found) == list(expected)
            for name, value in expected.items():
                if name == "explanation":
                    assert np.allclose(found[name], value, atol=0.03)
                elif name == "prediction":
                    assert next(iter(found[name])) == next(iter(value))
                    assert found[name] == pytest.approx(value, abs=0.005)
                else:
                    assert found[name] == value
            several = len(found.get("candidates", [])) > 1
            assert several == (content is images[-1])
            seen_as.append((found["known"], "cropped" in found, found.get("turned", 0)))
    assert seen_as[:6] == [
        (True, False, 0),
        (True, False, 0),
        (False, False, 0),
        (True, True, 0),
        (True, False, 180),
        (True, True, 90),
    ]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_upright(ready, orientation):
    image = drawn_image().transpose(Image.Transpose.ROTATE_90)
    content = jpeg(image, exif=orientation_exif(orientation))
    assert differences(ready, content).max() <= 3


def differences(page, content: bytes) -> np.ndarray:
    """How far the browser's pixels of a file are from the handler's, 0 to 255."""
    expected = pixels.read_pixels(io.BytesIO(content), SIZE, 0.875)
    return abs(seen(page, content).astype(int) - expected)


def test_pixels_of_every_kind_of_file(ready):
    random = np.random.default_rng(0)
    noise = Image.fromarray(random.integers(0, 256, (240, 320, 4), np.uint8), "RGBA")
    smooth = drawn_image(700, 500).resize((320, 240), Image.Resampling.BICUBIC)
    clear = smooth.copy()
    clear.putalpha(noise.getchannel("A"))
    for image in (smooth, smooth.convert("L"), smooth.convert("P"), clear, noise.convert("RGB")):
        assert differences(ready, png(image)).max() <= 1, image.mode
    assert differences(ready, saved(smooth, format="WEBP", lossless=True)).max() == 0
    assert differences(ready, saved(smooth, format="GIF")).max() <= 1
    assert differences(ready, jpeg(smooth)).max() <= 3
    assert differences(ready, jpeg(smooth, progressive=True)).max() <= 3
    assert differences(ready, jpeg(smooth.convert("L"))).max() <= 1


@pytest.mark.parametrize(("side", "orientation"), [(4000, 1), (1601, 6), (800, 1)])
def test_large_files_are_made_smaller_as_pillow_does(ready, side, orientation):
    image = Image.effect_noise((side // 16, side * 3 // 64), 60).convert("RGB")
    image = image.resize((side, side * 3 // 4), Image.Resampling.BICUBIC)
    found = differences(ready, jpeg(image, exif=orientation_exif(orientation)))
    assert found.mean() < 0.5 and found.max() <= 8


def test_real_model_gives_the_same_bits(browser, tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    site.write_site(MODEL, tmp_path / "site", PACKAGES)
    values = np.random.default_rng(5).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    interpreter = Interpreter(str(MODEL))
    interpreter.allocate_tensors()
    [inputs] = interpreter.get_input_details()
    interpreter.set_tensor(inputs["index"], values[None].astype(np.float32))
    interpreter.invoke()
    expected = {
        detail["name"]: interpreter.get_tensor(detail["index"])[0].ravel()
        for detail in interpreter.get_output_details()
    }
    with host(tmp_path / "site") as address:
        page = browser.new_page()
        page.add_init_script(BASE64)
        page.set_default_timeout(60_000)
        page.goto(address)
        loaded(page)
        found = outputs(page, values)
        page.close()
    assert np.array_equal(np.float32(found["features"]), expected["features"])
    assert np.array_equal(np.float32(found["map"]), expected["map"])
    for name in ("probabilities", "upright"):
        assert np.allclose(found[name], expected[name], atol=1e-6)
    score = read_facts(MODEL)["unknown_rule"]["score"]
    assert found["score"] == pytest.approx(expected[score].item(), abs=1e-5)


# --- A visit --------------------------------------------------------------------------------------


def test_first_visit_answers_and_asks_no_other_host(visit, address):
    page = visit(address)
    loaded(page)
    page.set_input_files("#file", DOG)
    assert shown(page) == NAME
    assert page.inner_text("#first li:first-child") == f"{NAME}\n100.0 %"
    page.check("#explain")
    assert page.is_visible("#map") and page.locator("#map").get_attribute("width") == "10"
    gray = png(Image.new("RGB", (64, 64), (128, 128, 128)))
    page.set_input_files("#file", {"name": "gray.png", "mimeType": "image/png", "buffer": gray})
    sync_api.expect(page.locator("#best")).to_contain_text("Looks most like ")
    page.set_input_files("#file", DOG | {"buffer": b"a dog"})
    assert problem(page).startswith("This file is damaged")
    own = (address, f"blob:{address}", "data:")
    assert [url for url in visit.loaded if not url.startswith(own)] == []
    assert page.context.cookies() == []


@pytest.mark.parametrize("isolated", [True, False], ids=["with headers", "without"])
def test_threads_where_the_headers_are_or_the_service_worker_adds_them(visit, folder, isolated):
    with host(folder, IsolatedFiles if isolated else Files) as address:
        page = visit(address)
        # The page may reload itself until the model is loaded, so ask it nothing before
        if loaded(page)["threads"] == 1:  # on a busy machine, the page does not wait for long
            page.wait_for_function("() => navigator.serviceWorker.controller")
            page.reload()
        used = loaded(page)["threads"]
        assert used == min(4, page.evaluate("navigator.hardwareConcurrency")) and page.evaluate(
            "crossOriginIsolated"
        )


def test_one_thread_without_service_worker(browser, address):
    context = browser.new_context(service_workers="block")
    page = context.new_page()
    page.goto(address)
    assert loaded(page) == {"wasm": f"{site.LITERT}/litert_wasm_internal.wasm", "threads": 1}
    page.set_input_files("#file", DOG)
    assert shown(page) == NAME
    context.close()


def test_without_https_there_is_one_thread_and_the_hashes_are_checked(browser, folder, tmp_path):
    """As on a phone that opens http://192.168.1.5:8000."""
    shutil.copytree(folder, tmp_path / "site")
    with host(tmp_path / "site") as address:
        page = browser.new_page()
        page.goto(address.replace("127.0.0.1", "site.example"))
        assert not page.evaluate("isSecureContext") and loaded(page)["threads"] == 1
        page.set_input_files("#file", DOG)
        assert shown(page) == NAME
        with (tmp_path / "site/model.tflite").open("r+b") as file:
            file.write(b"x")
        page.close()
        page = browser.new_page()  # with nothing cached
        page.goto(address.replace("127.0.0.1", "site.example"))
        assert "model.tflite could not be loaded" in problem(page)
        page.close()


@pytest.mark.parametrize("way", ["an error", "silence"])
def test_where_threads_fail_there_is_one(visit, address, way):
    """As on a phone that has no memory for them, or never starts them."""
    page = visit("about:blank")
    page.clock.install()
    page.add_init_script(
        f"const job = '{'load' if way == 'an error' else 'none'}';"
        """const inner = Worker.prototype.postMessage;
        Worker.prototype.postMessage = function (message, transfer) {
          const fails = message.job === "load" && message.input.threads > 1;
          if (!fails) inner.call(this, message, transfer);
          else if (job === "load") inner.call(this, {...message, input: {}}, transfer);
          else window.silent = true;
        };"""
    )
    page.goto(address)
    if way == "silence":
        page.wait_for_function("() => window.silent")
        page.clock.fast_forward(70_000)
    assert loaded(page)["threads"] == 1
    page.set_input_files("#file", DOG)
    assert shown(page) == NAME


def kept(page) -> set[str]:
    """The names of what the service worker keeps, after it has tidied up."""
    page.wait_for_function(
        """async () => {
          if (!site.files) return false;
          const addresses = ["", ...Object.values(site.files).map(file => file.address)];
          const all = new Set(addresses.map(address => new URL(address, location).href));
          const [name] = await caches.keys();
          const urls = (await (await caches.open(name)).keys()).map(request => request.url);
          return urls.length > 8 && urls.every(url => all.has(url));
        }"""
    )
    return set(
        page.evaluate(
            """async () => (await (await caches.open((await caches.keys())[0])).keys())
            .map(request => new URL(request.url).pathname)"""
        )
    )


def test_second_visit_needs_no_network_and_a_new_model_replaces_the_old(
    visit, browser, folder, colour_model, tmp_path
):
    shutil.copytree(folder, tmp_path / "site")
    context = browser.new_context()
    with host(tmp_path / "site") as address:
        page = visit(address, context)
        loaded(page)
        names = kept(page)
        page.close()
    variants = {name for name in names if name.endswith(".wasm")}
    assert len(variants) == 1 and {"/", "/model.tflite", "/site.js"} <= names
    page = visit(address, context)  # nobody listens there any longer
    page.set_input_files("#file", DOG)
    assert shown(page) == NAME
    page.close()
    others = with_facts(
        colour_model,
        tmp_path / "taught.tflite",
        cross_validation={},
        display_names={BREED: "Leo"},
        unknown_rule={"score": "upright", "threshold": 0.0},
    )
    site.write_site(others, tmp_path / "site", PACKAGES)
    port = int(address.rpartition(":")[2])
    with host(tmp_path / "site", port=port):
        page = visit(address, context)
        assert page.inner_text("h1") == "What does this photo show?"
        page.set_input_files("#file", DOG)
        assert shown(page) == "Leo"
        assert kept(page) == names
    context.close()


def test_damaged_files_are_not_run_and_their_repair_is(visit, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "site")
    model = tmp_path / "site/model.tflite"
    content = model.read_bytes()
    model.write_bytes(content[:-9] + b"x" + content[-8:])
    with host(tmp_path / "site") as address:
        page = visit(address)
        damaged = "The file model.tflite is damaged, or is being replaced. Reload the page."
        assert problem(page) == damaged
        model.unlink()
        page.set_input_files("#file", DOG)
        text = "The file model.tflite could not be loaded. Check the connection and try again."
        sync_api.expect(page.locator("#problem")).to_have_text(text)
        model.write_bytes(content)
        page.set_input_files("#file", DOG)
        assert shown(page) == NAME
    assert all("404" in said for said in visit.said), "the browser's own remark"
    visit.said.clear()


def test_addresses_that_the_browser_may_read(visit, address):
    page = visit(address)
    loaded(page)
    headers = {"Access-Control-Allow-Origin": "*", "Content-Type": "image/jpeg"}
    page.route("https://open.example/*", lambda route: route.fulfill(body=JPEG, headers=headers))
    others = headers | {"Access-Control-Allow-Origin": "https://friend.example"}
    page.route("https://closed.example/*", lambda route: route.fulfill(body=JPEG, headers=others))
    page.fill("#url", "https://open.example/dog.jpg")
    page.click("text=Ask")
    assert shown(page) == NAME and page.input_value("#url") == "https://open.example/dog.jpg"
    for url, sentence in (
        ("https://closed.example/dog.jpg", "does not let other pages read its images"),
        ("http://open.example/dog.jpg", "Only addresses that begin with https:// work here."),
    ):
        page.fill("#url", url)
        page.click("text=Ask")
        sync_api.expect(page.locator("#problem")).to_contain_text(sentence)
    assert all("closed.example" in said or "ERR_FAILED" in said for said in visit.said)
    visit.said.clear()


def test_policy_stops_foreign_script(visit, address):
    page = visit(address)
    loaded(page)
    page.evaluate(
        """() => {
          const script = document.body.appendChild(document.createElement('script'));
          script.textContent = 'window.foreign = 1';
        }"""
    )
    assert page.evaluate("window.foreign") is None
    assert len(visit.said) == 1 and "Content Security Policy" in visit.said.pop()


@pytest.mark.parametrize("options", [{}, PHONE], ids=["wide", "phone"])
def test_accessible_and_not_too_wide(visit, address, options):
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="no axe here; see CONTRIBUTING.md"
    ).Axe()
    page = visit(address, bypass_csp=True, **options)
    loaded(page)
    for state in ("start", "loading", "answer", "problem"):
        if state == "loading":
            page.evaluate("showProgress({received: 1e6, total: 3e7})")
        elif state != "start":
            page.set_input_files("#file", DOG if state == "answer" else DOG | {"buffer": b"?"})
            shown(page) if state == "answer" else problem(page)
        found = axe.run(page).response["violations"]
        assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
