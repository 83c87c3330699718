"""test.py and test_cloud.py, run as a user runs them, with the handler in AWS's emulator."""

import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from colour_model import COLOURS, with_facts
from conftest import COMMITTED, NOT_PUBLIC, ROOT, command, exit_message, needs_guard, run
from emulator import free_ports
from handler_fixtures import local_gateway, local_server
from handler_process import Silent
from odd_images import BREED, STORED, UNWRITABLE_EXIF, drawn_image, orientation_exif, png_file
from PIL import Image

import test
from dog_breeds.clients import client_images
from dog_breeds.clients.endpoint import open_session
from dog_breeds.data.dataset import display_name


def error_line(done: subprocess.CompletedProcess) -> str:
    """Return the error message of a client that failed, which is all that it may print."""
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.strip()


@pytest.fixture(scope="module")
def gateway(stack):
    with local_gateway(stack.endpoint) as address:
        yield address


def test_breeds_are_printed_with_bars_likeliest_first(stack, gateway, colour_model, photo):
    cloud = f"{gateway}/predict"
    for done in (
        run("test.py", "--file", photo, "--endpoint", stack.endpoint),
        run("test.py", "--file", photo, "--model", colour_model),
        run("test_cloud.py", "--file", photo, "--endpoint", cloud),
        run("test_cloud.py", "--file", photo, DOG_BREEDS_ENDPOINT=cloud),
    ):
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert lines[0] == f"{BREED}              100.0%  {'#' * 40}"
        assert len(lines) == 10 and all(
            re.fullmatch(r"[a-z_]+ +[0-9.]+%( +#*)?", line) for line in lines
        )


def test_an_unknown_breed_is_named_as_such(stack, tmp_path):
    Image.new("RGB", (64, 64), (128, 128, 128)).save(tmp_path / "gray.png")
    done = run("test.py", "--file", tmp_path / "gray.png", "--endpoint", stack.endpoint)
    first, second = done.stdout.splitlines()[:2]
    name = display_name(second.split()[0])
    assert first == f"It looks most like {name}, but may be a breed that the model does not know."


def test_several_candidates_are_shown_in_one_line_but_never_one_alone(colour_model, tmp_path):
    model = with_facts(colour_model, tmp_path / "m.tflite", candidates={"threshold": 0.1})
    outputs = []
    # The first colour lies between those of two breeds
    for colour in ((67, 41, 20), COLOURS["shih_tzu"]):
        Image.new("RGB", (64, 64), colour).save(tmp_path / "dog.png")
        done = run("test.py", "--file", tmp_path / "dog.png", "--model", model)
        outputs.append(done.stdout.splitlines())
    two_candidates, one_candidate = outputs
    assert two_candidates[0] == "Shih Tzu or Irish Wolfhound"
    assert two_candidates[1].startswith("shih_tzu") and len(two_candidates) == 11
    assert one_candidate[0].startswith("shih_tzu") and len(one_candidate) == 10


@pytest.mark.parametrize("orientation", [1, 6])
def test_large_photo_is_sent_smaller_and_upright(stack, tmp_path, orientation):
    image = (
        drawn_image(4000, 3000)
        if orientation == 1
        else drawn_image(4000, 3000).transpose(Image.Transpose.ROTATE_90)
    )
    # With noise, the file is larger than what is sent as it is
    noise = np.random.default_rng(0).integers(-9, 9, (image.height, image.width, 1))
    image = Image.fromarray((np.asarray(image, int) + noise).clip(0, 255).astype(np.uint8))
    image.save(tmp_path / "phone.jpg", quality=97, exif=orientation_exif(orientation))
    assert (tmp_path / "phone.jpg").stat().st_size > 4_000_000
    done = run("test.py", "--file", tmp_path / "phone.jpg", "--endpoint", stack.endpoint)
    assert done.returncode == 0 and done.stdout.startswith(BREED)
    assert stack.log()["size"] == [2000, 1500] and stack.log()["bytes"] < 4_000_000


def heic_file(image: Image.Image, **options: object) -> bytes:
    """Return an image as a HEIC file, as iPhones write it."""
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, **options)
    return buffer.getvalue()


def test_images_of_other_formats_are_sent_as_jpeg(stack, tmp_path):
    image = drawn_image(640, 480)
    (tmp_path / "photo.heic").write_bytes(heic_file(image))
    (tmp_path / "turned.heic").write_bytes(
        heic_file(image.transpose(Image.Transpose.ROTATE_90), exif=orientation_exif(6))
    )
    image.save(tmp_path / "photo.avif")
    image.save(tmp_path / "photo.jpg", format="TIFF")
    noise = np.random.default_rng(0).integers(0, 256, (1300, 2400, 3), np.uint8)
    noise[:650, :1200] = COLOURS[BREED]
    Image.fromarray(noise).save(tmp_path / "large.png", compress_level=0)
    assert (tmp_path / "large.png").stat().st_size > 9_000_000
    for name in ("photo.heic", "turned.heic", "photo.avif", "photo.jpg"):
        done = run("test.py", "--file", tmp_path / name, "--endpoint", stack.endpoint)
        assert done.returncode == 0 and done.stdout.startswith(BREED), done.stderr
        assert stack.log()["size"] == [640, 480] and done.stderr == ""
    done = run("test.py", "--file", tmp_path / "large.png", "--endpoint", stack.endpoint)
    assert (
        done.returncode == 0
        and stack.log()["size"] == [2000, 1083]
        and stack.log()["bytes"] < 4_000_000
    )


def test_explanation_is_drawn_on_the_upright_image(explaining_model, tmp_path):
    image = Image.new("RGB", (300, 400), COLOURS["samoyed"])
    image.paste(COLOURS["leonberg"], (150, 0, 300, 400))
    turned = image.transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "photo.png", exif=orientation_exif(6))
    out = tmp_path / "out.png"
    done = run(
        "test.py", "--file", tmp_path / "photo.png", "--model", explaining_model, "--explain", out
    )
    assert done.returncode == 0 and done.stderr == "" and done.stdout.startswith("samoyed")
    assert done.stdout.endswith(f"where the model looked: {out}\n")
    with Image.open(out) as drawn:
        assert drawn.size == (300, 400)
        assert drawn.getpixel((75, 200)) == COLOURS["samoyed"]
        dark = [round(0.27 * value) for value in COLOURS["leonberg"]]
        assert drawn.getpixel((225, 200)) == pytest.approx(dark, abs=2)
        assert sum(drawn.getpixel((5, 200))) < 200, (
            "the margin, which the model does not see, is dark"
        )
    done = run("test.py", "--explain", out)
    assert done.returncode == 2 and "--explain needs --file" in done.stderr


@pytest.fixture
def files(tmp_path, photo) -> Path:
    """A folder with a photo and with damaged files."""
    (tmp_path / "text.jpg").write_text("a dog")
    (tmp_path / "large.jpg").write_bytes(bytes(5_000_000))
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "half.jpg").write_bytes(photo.read_bytes()[:2000])
    heic = heic_file(drawn_image(500, 375))
    (tmp_path / "half.heic").write_bytes(heic[: len(heic) // 2])
    (tmp_path / "bad.tflite").write_bytes(b"TFL3")
    return tmp_path


@pytest.fixture(scope="module")
def forbidden():
    """An address at which AWS answers, but not this service."""

    class Forbidden(Silent):
        def do_POST(self) -> None:
            self.read()
            self.reply(
                b'{"error":"not found"}' if self.path == "/word" else b'{"message":"Forbidden"}',
                403,
            )

    with local_server(Forbidden) as address:
        yield address


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--file missing.jpg", "test.py: there is no file FOLDER/missing.jpg"),
        ("--file .", "test.py: FOLDER is a folder; name an image in it"),
        (
            "--file text.jpg",
            "text.jpg is not an image in a known format (JPEG, PNG, WebP, GIF, BMP, HEIC",
        ),
        ("--file large.jpg", "large.jpg is not an image in a known format"),
        ("--file empty.jpg", "empty.jpg is not an image in a known format"),
        ("--file half.heic", "half.heic is damaged"),
        ("--file half.jpg", "the image is cut off: its last part is missing"),
        ("--file photo.jpg --explain out.jpg", "test.py: this model file cannot explain"),
        ("--url http://10.0.0.1/dog.jpg", NOT_PUBLIC),
        pytest.param(
            "--url dog.jpg", "the URL must begin with http:// or https://", marks=needs_guard
        ),
        ("--file photo.jpg --endpoint FORBIDDEN", '{"message":"Forbidden"}'),
        (
            "--file photo.jpg --endpoint FORBIDDEN/word",
            'not as this service does: {"error":"not found"}',
        ),
        (
            "--file photo.jpg --endpoint NOWHERE",
            "start the service with make serve, or with Docker: docker run -it",
        ),
        ("--file photo.jpg --endpoint nonsense", "no answer from nonsense (MissingSchema)"),
        ("--file photo.jpg --model bad.tflite", "bad.tflite is damaged"),
        (
            "--file photo.jpg --model missing.tflite",
            "test.py: there is no model file FOLDER/missing.tflite",
        ),
    ],
)
def test_errors_are_one_line_and_status_1(stack, forbidden, files, arguments, expected):
    addresses = {"FORBIDDEN": forbidden, "NOWHERE": f"http://127.0.0.1:{free_ports()[0]}/"}
    argv = [
        re.sub("FORBIDDEN|NOWHERE", lambda name: addresses[name[0]], argument)
        for argument in arguments.split()
    ]
    if argv[0] == "--file":
        argv = [
            files / argument if re.search(r"^\.$|\.(jpg|heic|tflite)$", argument) else argument
            for argument in argv
        ]
    if not re.search("endpoint|model", arguments):
        argv += ["--endpoint", stack.endpoint]
    message = error_line(run("test.py", *argv))
    assert message.startswith("test.py: ") and expected.replace("FOLDER", str(files)) in message


def test_make_serve_is_asked_first_and_then_a_container(
    stack, forbidden, photo, monkeypatch, capsys
):
    nowhere = f"http://127.0.0.1:{free_ports()[0]}/"
    for first in (nowhere, forbidden):
        monkeypatch.setattr(test, "ENDPOINTS", (first, stack.endpoint))
        assert exit_message(monkeypatch, test, "--file", photo) is None
        assert capsys.readouterr().out.startswith(BREED)
    monkeypatch.setattr(test, "ENDPOINTS", (stack.endpoint, forbidden))
    assert exit_message(monkeypatch, test, "--file", photo) is None
    monkeypatch.setattr(test, "ENDPOINTS", (nowhere, forbidden))
    message = exit_message(monkeypatch, test, "--file", photo)
    assert message.startswith(f"test.py: no answer from {nowhere} (ConnectionError); {forbidden} a")
    assert message.endswith("without a service: --model models/dog_breeds_120.tflite")


def test_the_ten_likeliest_of_120_breeds_are_shown(photo):
    lines = run(
        "test.py", "--file", photo, "--model", ROOT / "models/dog_breeds_120.tflite"
    ).stdout.splitlines()
    percentages = [float(line.split()[1].rstrip("%")) for line in lines if "%" in line]
    assert len(percentages) == 10 and percentages == sorted(percentages, reverse=True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--url", "https://a.b/c.jpg", "--folder", "x", "--csv", "y"),
        ("--model", "z", "--endpoint", "http://a/"),
    ],
)
def test_options_that_would_have_no_effect_are_refused(arguments):
    done = run("test.py", *arguments)
    assert done.returncode == 2 and re.search(
        "cannot be combined with --file, --url|--folder and --model work without one", done.stderr
    )


def test_cloud_client_needs_an_endpoint_and_passes_errors_on(gateway, files):
    assert "set DOG_BREEDS_ENDPOINT" in error_line(run("test_cloud.py"))
    message = error_line(
        run("test_cloud.py", "--file", files / "text.jpg", "--endpoint", f"{gateway}/predict")
    )
    expected = f"test_cloud.py: {files / 'text.jpg'} is not an image in a known format"
    assert message.startswith(expected)
    message = error_line(
        run("test_cloud.py", "--file", files / "photo.jpg", "--endpoint", f"{gateway}/a.txt")
    )
    assert message == "test_cloud.py: there is nothing at this path; use / or /predict"


def test_help_shows_the_default_photo_and_endpoints():
    text = "".join(run("test.py", "--help").stdout.split())  # the lines break within addresses
    assert "https://images.unsplash.com/photo-1636496430627-a7b203b4cc58" in text
    assert all(endpoint in text for endpoint in test.ENDPOINTS)


def test_a_large_image_of_16_bits_keeps_its_greys(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(28_000, 32_000, (1600, 1600), np.uint16)).save(
        tmp_path / "large.png"
    )
    with Image.open(io.BytesIO(client_images.image_to_send(tmp_path / "large.png"))) as sent:
        assert sent.format == "JPEG" and abs(np.asarray(sent).mean() - 30_000 / 257) < 1


def test_a_photo_whose_exif_pillow_cannot_write_is_turned_upright(tmp_path):
    drawn_image().transpose(STORED[6]).save(tmp_path / "odd.jpg", exif=UNWRITABLE_EXIF)
    upright = client_images.upright_image(tmp_path / "odd.jpg", 2000)
    assert upright.size == drawn_image().size and upright.getpixel((9, 9)) == pytest.approx(
        COLOURS[BREED], abs=3
    )


def test_an_image_with_too_many_pixels_is_sent_smaller(tmp_path):
    Image.new("L", (8000, 6500)).save(tmp_path / "telephone.jpg")
    assert (tmp_path / "telephone.jpg").stat().st_size < client_images.MAX_SENT_BYTES
    with Image.open(io.BytesIO(client_images.image_to_send(tmp_path / "telephone.jpg"))) as sent:
        assert sent.size == (2000, 1625)


def test_files_that_cannot_be_sent_have_a_message(tmp_path, monkeypatch):
    (tmp_path / "photo.heic").write_bytes(heic_file(drawn_image()))
    (tmp_path / "bomb.png").write_bytes(png_file((60_000, 60_000, 8, 2, 0, 0, 0)))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for name, message in (
        ("photo.heic", "is a HEIC photo; to read it, run pip install pillow-heif"),
        ("bomb.png", "has too many pixels; make it smaller"),
    ):
        with pytest.raises(ValueError, match=message):
            client_images.image_to_send(tmp_path / name)


@pytest.mark.parametrize("script", ["test.py", "convert_model.py"])
def test_a_closed_pipe_ends_a_script_quietly(colour_model, photo, script):
    arguments = {
        "test.py": ["--file", photo, "--model", colour_model],
        "convert_model.py": ["--show", COMMITTED],
    }
    with subprocess.Popen(
        command(script, *arguments[script]), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()  # before the script prints anything, as `head` may do
        assert process.stderr.read() == b""


PROXIES = ("HTTP_PROXY", "http_proxy", "https_proxy", "ALL_PROXY")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_service_on_this_machine_is_asked_without_the_proxy(photo, host):
    class Service(Silent):
        def do_POST(self) -> None:
            self.read()
            self.reply(b'{"prediction": {"pug": 1.0}, "known": true}')

    with local_server(Service) as address:
        endpoint = address.replace("127.0.0.1", host)
        proxies = dict.fromkeys(PROXIES, "http://127.0.0.1:9")  # no proxy listens there
        for script in ("test.py", "test_cloud.py"):
            done = run(script, "--file", photo, "--endpoint", endpoint, **proxies)
            assert done.returncode == 0 and "pug" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("url", "is_local"),
    [
        ("http://LOCALHOST:9000/x", True),
        ("http://localhost.", True),
        ("http://dogs.localhost:9000", True),
        ("http://127.1.2.3", True),
        ("http://[::1]:80", True),
        ("http://0.0.0.0:8080", True),
        ("http://10.0.0.1", False),
        ("http://localhost.example.com", False),
        ("https://dogs.example.com", False),
    ],
)
def test_only_addresses_of_this_machine_ignore_the_proxies(url, is_local):
    with open_session(url) as session:
        assert session.trust_env is not is_local
