"""Compare the site of `make site` in headless Chromium with the handler: same answers, and speed.

Reads     photos below a folder, by default those of make_dataset.py, and a model file.
Needs     playwright and Chromium; npm, or .litertjs as `make site` leaves it.
Example

    python benchmarks/site.py --json site.json                  # 300 photos, 5 minutes on 2 cores
    python benchmarks/site.py --photos data/raw/Images --number 60

Time      5 minutes on 2 cores for 300 photos.
Expect    How often the page and the handler name the same class, and how often they agree on
          whether it is known; the mean and the largest difference of a probability. The seconds to
          the first answer at a first visit, with nothing cached. The median milliseconds of later
          answers with one thread and with all threads, decoding and resize included. The seconds to
          an answer at a second visit while no server runs."""

import base64
import contextlib
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common import MODEL, ROOT, Figure, command_line, report
from playwright import sync_api
from site_visits import BASE64, Files, IsolatedFiles, answer_of_page, host, loaded

from dog_breeds.clients.site import write_site
from dog_breeds.data.dataset import DATA_DIR, images_dir

TIMED = 20  # photos per median


def new_page(context: sync_api.BrowserContext, address: str) -> sync_api.Page:
    """Return a page of the site that has loaded its model."""
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.add_init_script(BASE64)
    page.goto(address)
    loaded(page)
    return page


def seconds_to_answer(context: sync_api.BrowserContext, address: str, photo: Path) -> float:
    """Return the seconds from opening the page to its answer about a photo."""
    start = time.perf_counter()
    answer_of_page(new_page(context, address), photo.read_bytes())
    return time.perf_counter() - start


def median_ms(page: sync_api.Page, photos: list[Path]) -> float:
    """Return the median milliseconds of an answer of a page that has already answered once."""
    seconds = []
    for photo in photos:
        content = photo.read_bytes()
        start = time.perf_counter()
        answer_of_page(page, content)
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds)


def compare(page: sync_api.Page, handler: object, photos: list[Path]) -> Iterator[Figure]:
    """Ask the page and the handler about the same photos, and compare the answers."""
    same_class, same_known, differences = [], [], []
    for photo in photos:
        content = photo.read_bytes()
        event = {"image": base64.b64encode(content).decode()}
        with contextlib.redirect_stdout(None):  # hides the handler's log
            expected = handler.lambda_handler(event)  # type: ignore[attr-defined]
        found = answer_of_page(page, content)
        names = list(expected["prediction"])
        same_class.append(next(iter(found["prediction"])) == names[0])
        same_known.append(found["known"] == expected["known"])
        differences.append(
            [found["prediction"][name] - expected["prediction"][name] for name in names]
        )
        if not same_class[-1] or not same_known[-1]:
            print(f"# {photo.name}: {list(found['prediction'].items())[:2]}, {expected}"[:300])
    absolute = np.abs(differences)
    yield "site_photos", len(photos), ""
    yield "site_same_class", 100 * np.mean(same_class), "%"
    yield "site_same_known", 100 * np.mean(same_known), "%"
    yield "site_mean_difference", absolute.mean(), ""
    yield "site_mean_of_largest_differences", absolute.max(axis=1).mean(), ""
    yield "site_largest_difference", absolute.max(), ""


def measure(model: Path, folder: Path, number: int) -> Iterator[Figure]:
    """Write the site, visit it, and compare it with the handler."""
    os.environ["MODEL_FILE"] = str(model)
    import lambda_function as handler

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    files = sorted(folder.rglob("*.jpg"))
    if not files:
        raise ValueError(f"there are no photos below {folder}; name a folder with --photos")
    chosen = np.random.default_rng(0).permutation(len(files))[:number]
    photos = [files[index] for index in chosen]
    with tempfile.TemporaryDirectory() as temporary, sync_api.sync_playwright() as playwright:
        site = Path(temporary) / "site"
        sizes = write_site(model, site, ROOT / ".litertjs")
        yield "site_folder_mb", sum(sizes.values()) / 1e6, "MB"
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        # Without the service worker the page has one thread
        alone = browser.new_context(service_workers="block")
        with host(site, Files) as address:
            yield "site_first_answer_s", seconds_to_answer(alone, address, photos[0]), "s"
            page = new_page(alone, address)
            median_ms(page, photos[:2])
            yield "site_one_thread_ms", median_ms(page, photos[:TIMED]), "ms"
            yield from compare(page, handler, photos)
        context = browser.new_context()
        with host(site, IsolatedFiles) as address:
            page = new_page(context, address)
            yield "site_threads", loaded(page)["threads"], ""
            median_ms(page, photos[:2])
            yield "site_threads_ms", median_ms(page, photos[:TIMED]), "ms"
            page.wait_for_timeout(3000)  # wait until the service worker has cached everything
        yield "site_offline_answer_s", seconds_to_answer(context, address, photos[0]), "s"
        browser.close()


def main() -> None:
    """Parse the arguments, measure and print the figures."""
    parser = command_line(__doc__)
    parser.add_argument(
        "--photos",
        type=Path,
        default=images_dir(DATA_DIR),
        metavar="DIR",
        help="default: %(default)s",
    )
    parser.add_argument("--number", type=int, default=300, help="default: %(default)s")
    parser.add_argument("--model", type=Path, default=MODEL, help="default: %(default)s")
    args = parser.parse_args()
    report(measure(args.model, args.photos, args.number), args.json)


if __name__ == "__main__":
    main()
