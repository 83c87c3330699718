"""Write a website that classifies photos in the visitor's browser, without a service.

Any web server can serve the folder. The model runs in LiteRT.js and gives the same answers as the
service. The page loads nothing from other hosts.

Reads     a model file of convert_model.py or teach.py.
Writes    the folder site/: index.html, scripts, the model, LiteRT.js.
Needs     npm, once, to download LiteRT.js into .litertjs/. Visitors and servers do not need npm.
Time      A few seconds; a minute the first time.
"""

import argparse
import base64
import hashlib
import html
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ai_edge_litert.interpreter import Interpreter

from dog_breeds.console import one_line_errors, quiet, script_parser
from dog_breeds.recipe import MODEL
from dog_breeds.serving.explanation import explanation_tensors
from dog_breeds.serving.facts import read_facts
from dog_breeds.serving.page import digest, page_html

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).with_name("browser")
PACKAGES = {  # npm packages: name and version, and the archive's SHA-512 as npm writes it
    "core": (
        "@litertjs/core@2.5.3",
        "PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ==",
    ),
    "wasm-utils": (
        "@litertjs/wasm-utils@2.5.3",
        "4fJiw6tBQnIs+0jH/OQ16nYOiSl8/+zZnn5h2ul8aTKHi05sVqZW580Tmk78pC2kT39A9OYBVdFawteZ/sI1kQ==",
    ),
}
LITERT = "litert-2.5.3"  # folder of LiteRT.js inside the site
# For several threads; one thread; browsers without relaxed SIMD. A visitor loads one of these.
VARIANTS = ("litert_wasm_threaded", "litert_wasm", "litert_wasm_compat")
REPLACED_TEXTS = {  # text of page.html that is wrong without a service -> its replacement
    "The browser makes your photo smaller before it sends it. The service does not keep it.": (
        "Your photo stays on this device: the model runs in your browser. After the first visit, "
        "it also works without a network."
    ),
    "Without JavaScript, this form accepts only addresses. The answer is JSON.": (
        "This page needs JavaScript: the model runs in your browser."
    ),
}


def _parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = script_parser(__doc__, "python -m dog_breeds.clients.site --model my_classes.tflite")
    parser.add_argument(
        "--model", type=Path, default=MODEL, help="model file (default: %(default)s)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("site"),
        help="folder to write; an older site in it is replaced (default: %(default)s)",
    )
    parser.add_argument(
        "--packages",
        type=Path,
        default=ROOT / ".litertjs",
        help="folder of the downloaded packages (default: %(default)s)",
    )
    return parser.parse_args()


def write_site(model: Path, output: Path, packages: Path) -> dict[str, int]:
    """Write the site of a model file to a folder. Return the size in bytes of each file by name.

    If the folder has an older site, the new one replaces it as a whole. Raises ValueError if the
    model file is damaged or the folder has other content, and OSError if the packages cannot be
    downloaded.
    """
    content = model.read_bytes()
    facts, page_values = _inspect_model(model, content)
    empty = not output.exists() or (output.is_dir() and not any(output.iterdir()))
    # Never replace a folder that is not a site
    if not empty and not (output / "service-worker.js").is_file():
        raise ValueError(f"{output} exists and is not a site; use another --output")
    output.parent.mkdir(parents=True, exist_ok=True)
    # On the same disk as the output, so that the finished folder can be renamed
    with TemporaryDirectory(prefix=".part-", dir=output.parent) as folder:
        new = Path(folder) / "site"
        new.mkdir()
        _unpack_litert(packages, new / LITERT)
        (new / "model.tflite").write_bytes(content)
        for script in SCRIPTS.glob("*.js"):
            shutil.copy(script, new)
        (new / "index.html").write_text(_index_page(new, facts, page_values), encoding="utf-8")
        sizes = {str(path.relative_to(new)): path.stat().st_size for path in _list_files(new)}
        if output.exists():
            output.rename(Path(folder) / "old")
        new.rename(output)
    return sizes


def _inspect_model(path: Path, content: bytes) -> tuple[dict, dict]:
    """Return the facts of a model file, and the values that the page's scripts need.

    These values are "rules", by which an answer is chosen, and "kernel": where in the file the
    weights of the head are, or None if the file cannot explain its answers. Raises ValueError if
    the file is damaged or of another form.
    """
    facts = read_facts(path)
    try:
        rules = {
            "classes": facts["classes"],
            "size": facts["input"]["height"],
            "share": facts["photo_share"],
            "unknown_rule": facts["unknown_rule"],  # its "score" is the name of an output
            "candidates": facts.get("candidates"),
        }
        with quiet():
            interpreter = Interpreter(model_content=content)
            interpreter.allocate_tensors()
        outputs = {detail["name"]: detail for detail in interpreter.get_output_details()}
        # answers.js relies on these outputs, so check them here and not in the visitor's browser
        names = "probabilities", facts["unknown_rule"]["score"], "upright"
        details = interpreter.get_input_details() + [outputs[name] for name in names]
        shapes = [tuple(detail["shape"].tolist()) for detail in details]
        size, number = rules["size"], len(rules["classes"])
        if shapes != [(1, size, size, 3), (1, number), (1, 1), (1, 1)]:
            raise ValueError(f"its tensors have the shapes {shapes}")
        tensors, kernel = explanation_tensors(interpreter), None
        if tensors:
            weights = interpreter.get_tensor(tensors[1])
            # Floats of the file from this byte on; the page reads them out of its copy of the file
            kernel = {"offset": content.index(weights.tobytes()), "length": weights.size}
        return facts, {"rules": rules, "kernel": kernel}
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path.name} is damaged, or was not made by convert_model.py: {error}"
        ) from error


# --- LiteRT.js ------------------------------------------------------------------------------------


def _unpack_litert(packages: Path, folder: Path) -> None:
    """Write LiteRT.js to a folder: its module as one file, its WebAssembly, and their loaders."""
    folder.mkdir()
    modules = {}
    for name in PACKAGES:
        with tarfile.open(_package_archive(name, packages)) as archive:
            modules[name] = _read_member(archive, "dist/index.js").decode()
            if name == "core":
                for variant in VARIANTS:
                    for ending in ("js", "wasm"):
                        file = f"{variant}_internal.{ending}"
                        (folder / file).write_bytes(_read_member(archive, f"wasm/{file}"))
    # The core imports wasm-utils by its package name. That needs an import map, which workers lack,
    # so join the two modules into one file without this import.
    utils = re.sub(r"^export \{[^}]*\};$", "", modules["wasm-utils"], flags=re.M)
    core = re.sub(r"^import .* from \"@litertjs/wasm-utils\";$", "", modules["core"], flags=re.M)
    joined = re.sub(r"^//# sourceMappingURL=.*$", "", f"{utils}\n{core}", flags=re.M)
    (folder / "litert.js").write_text(joined, encoding="utf-8")


def _read_member(archive: tarfile.TarFile, name: str) -> bytes:
    """Return the content of a file of an npm package."""
    file = archive.extractfile(f"package/{name}")
    if not file:
        raise ValueError(f"{name} is missing in {archive.name}")
    return file.read()


def _package_archive(name: str, packages: Path) -> Path:
    """Return the archive of an npm package. If the folder `packages` lacks it, npm downloads it.

    Raises OSError if the download fails, and ValueError if the archive has another SHA-512.
    """
    package, digest = PACKAGES[name]
    archive = packages / (package.lstrip("@").replace("/", "-").replace("@", "-") + ".tgz")
    if not archive.is_file():
        packages.mkdir(parents=True, exist_ok=True)
        npm = shutil.which("npm")
        if not npm:
            raise OSError(
                f"npm is needed once, to download {package}; install Node.js, or copy {archive} "
                "from a computer on which this script has run"
            )
        print(f"downloading {package} with npm", flush=True)
        command = [npm, "pack", package, "--silent", "--pack-destination", str(packages)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode or not archive.is_file():
            reason = next(iter(result.stderr.strip().splitlines()), "it gave no reason")
            raise OSError(f"npm could not download {package}: {reason}")
    found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != digest:
        raise ValueError(
            f"{archive} differs from the published {package}; remove the file and start again"
        )
    return archive


# --- The page -------------------------------------------------------------------------------------


def _list_files(folder: Path) -> list[Path]:
    """Return all files in a folder and its sub-folders."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _index_page(folder: Path, facts: dict, page_values: dict) -> str:
    """Return index.html: page.html with site.js, a security policy, and values for the scripts.

    The values are `page_values`, and the address, size and hash of each file in the folder.
    """
    files: dict[str, Any] = {}
    for path in _list_files(folder):
        name, content = path.relative_to(folder).as_posix(), path.read_bytes()
        sha256 = hashlib.sha256(content)
        # The address contains the hash of the file, or LiteRT's version. A changed file therefore
        # has a new address, for which no cache has the old content.
        address = name if name.startswith(LITERT) else f"{name}?{sha256.hexdigest()[:16]}"
        # In the form in which browsers expect a hash for fetch()
        integrity = f"sha256-{base64.b64encode(sha256.digest()).decode()}"
        files[name] = {"address": address, "bytes": len(content), "integrity": integrity}
    del files["service-worker.js"]  # browsers find the update of a service worker by its address
    site = {"litert": LITERT, "files": files, **page_values}
    page = page_html(facts, bool(page_values["kernel"]), site=site)
    for old, new in REPLACED_TEXTS.items():
        page = page.replace(old, new)
    address = html.escape(files["site.js"]["address"])
    page = page.replace("<script>", f'<script src="{address}"></script>\n<script>', 1)
    # Static hosts set no headers, so the policy is a meta element in the page
    policy = {
        "default-src": "'none'",
        "script-src": f"'self' 'wasm-unsafe-eval' {digest('script', page)}",
        "style-src": digest("style", page),
        "img-src": "blob: data:",
        "connect-src": "'self' https:",  # https: for photos given by their address
        "worker-src": "'self'",
        "form-action": "'none'",
        "base-uri": "'none'",
    }
    policy_text = "; ".join(f"{name} {sources}" for name, sources in policy.items())
    meta = f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy_text)}">\n'
    meta += '<meta name="referrer" content="no-referrer">\n'
    # Before everything that the policy has to cover
    return page.replace("<meta name", f"{meta}<meta name", 1)


def main() -> None:
    """Write the site, and print how to view and publish it."""
    args = _parse_args()
    with one_line_errors():
        sizes = write_site(args.model, args.output, args.packages)
        megabytes = {name: size / 1e6 for name, size in sizes.items()}
        first = megabytes["model.tflite"] + megabytes[f"{LITERT}/{VARIANTS[0]}_internal.wasm"]
        print(
            f"{args.output}: {sum(megabytes.values()):.0f} MB, of which a browser loads "
            f"{first:.0f} MB once\n"
            f"view it:     python -m http.server --bind 127.0.0.1 --directory {args.output} 8000, "
            "then open http://localhost:8000\n"
            "publish it:  copy the folder to any web server with https, such as GitHub Pages or S3 "
            "behind CloudFront (.github/workflows/pages.yml); see DEPLOY.md"
        )


if __name__ == "__main__":
    main()
