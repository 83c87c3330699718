"""The handler: requests and answers, odd and hostile images, any event at all, logs, memory, and
its start.
"""

import base64
import copy
import importlib.util
import itertools
import json
import os
import re
import resource
import signal
import time
import zipfile
from pathlib import Path

import hostile_urls
import odd_images
import pytest
from colour_model import COLOURS, metadata, with_facts
from conftest import GUARD, THOROUGH, needs_guard
from handler_process import (
    handler_process,
    run_python,
    with_fault,
    with_little_time,
    with_local_server,
    without_network,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd_images import BREED, JPEG, TEXT, drawn_image, saved, text
from PIL import Image
from services import SERVICES, function_url, response, rest

from dog_breeds.serving.facts import append_facts
from dog_breeds.serving.safe_images import TooSlow, limited_time

CODES = hostile_urls.words("""
    invalid_request url_refused not_found method_not_allowed too_large unsupported_type
    invalid_image
""")
ONE_OF = "the request must have one of url, image, urls, images, key"
RULE = metadata([])["unknown_rule"]
TOP_K, NO_TEXT = "top_k must be a whole number from 1 to 10", "image must be base64 text"


def error(code: str, message: str) -> dict:
    return {"error": {"code": code, "message": message}}


# --- Requests -------------------------------------------------------------------------------------


def test_answer_is_exact_to_the_byte(stack):
    event = {"image": text(Image.new("RGB", (500, 375), "white"), format="PNG")}
    assert stack.post(json.dumps(event).encode()) == (
        b'{"prediction": {"great_pyrenees": 1.0, "afghan_hound": 0.0, "bernese_mountain_dog": 0.0,'
        b' "irish_wolfhound": 0.0, "leonberg": 0.0, "maltese_dog": 0.0, "pomeranian": 0.0, '
        b'"samoyed": 0.0,'
        b' "scottish_deerhound": 0.0, "shih_tzu": 0.0}, "known": true}'
    )
    assert stack.post(b'{"images": []}') == (
        b'{"error": {"code": "invalid_request", "message": "images must be a list of 1 to 10 '
        b'items"}}'
    )


def test_all_classes_best_first_and_adding_up(stack):
    brown = Image.new("RGB", (64, 64), (170, 110, 90))
    answer = stack.invoke({"image": text(brown, format="PNG")})
    values = list(answer["prediction"].values())
    assert answer["prediction"].keys() == COLOURS.keys() and values == sorted(values, reverse=True)
    assert sum(values) == pytest.approx(1, abs=1e-5) and answer["known"] is False
    assert stack.invoke({"image": TEXT})["known"] is True


def test_candidates_of_known_images(colour_model, tmp_path):
    """From a probability of 0.1, and always the first; not in the answer to an unknown image."""
    model = with_facts(colour_model, tmp_path / "m.tflite", candidates={"threshold": 0.1})
    between = Image.new("RGB", (64, 64), (67, 41, 20))  # shih_tzu's colour and irish_wolfhound's
    plain, unclear = text(Image.new("RGB", (64, 64), "white")), text(between, format="PNG")
    unknown = text(Image.new("RGB", (64, 64), (170, 110, 90)))
    expected = [["great_pyrenees"], ["shih_tzu", "irish_wolfhound"], None]
    with handler_process(model) as ask:
        for fields in ({}, {"top_k": 1}):
            answers = ask({"images": [plain, unclear, unknown]} | fields).answer["predictions"]
            assert [answer.get("candidates") for answer in answers] == expected
            assert [answer["known"] for answer in answers] == [True, True, False]
        assert ask({"image": unclear}).answer["candidates"] == expected[1]
    high = with_facts(colour_model, tmp_path / "high.tflite", candidates={"threshold": 0.9})
    with handler_process(high) as ask:
        assert ask({"image": unclear}).answer["candidates"] == ["shih_tzu"]


def test_the_facts_name_the_output_that_is_the_score(colour_model, tmp_path):
    """ "upright" is the similarity less its threshold: with the threshold 0 it gives the same."""
    rule = {"unknown_rule": {"score": "upright", "threshold": 0.0}}
    with handler_process(with_facts(colour_model, tmp_path / "m.tflite", **rule)) as ask:
        answers = [
            ask({"image": text(Image.new("RGB", (64, 64), colour))}).answer
            for colour in ("white", (170, 110, 90))
        ]
    assert [answer["known"] for answer in answers] == [True, False]


@pytest.mark.parametrize("top_k", [1, 3, 10])
def test_top_k_keeps_the_best(stack, top_k):
    whole = stack.invoke({"image": TEXT})["prediction"]
    assert (
        list(stack.invoke({"image": TEXT, "top_k": top_k})["prediction"].items())
        == list(whole.items())[:top_k]
    )


def test_list_keeps_order_and_has_an_answer_or_error_for_each(stack):
    dogs = {breed: text(drawn_image(breed=breed)) for breed in list(COLOURS)[:8]}
    answers = stack.invoke({"images": [*dogs.values(), "?", 5], "top_k": 1})["predictions"]
    assert [list(answer["prediction"]) for answer in answers[:8]] == [[breed] for breed in dogs]
    assert answers[8:] == [error("invalid_request", NO_TEXT)] * 2


@pytest.mark.parametrize(
    ("event", "message"),
    [
        *(
            (event, ONE_OF)
            for event in ({}, {"top_k": 3}, {"url": "http://a.example", "image": TEXT})
        ),
        *((event, "the request must be a JSON object") for event in ([], "text", None)),
        *(({"image": TEXT, "top_k": k}, TOP_K) for k in (0, -1, 11, 1.0, "1", True, [1])),
        *(
            ({"image": image}, NO_TEXT)
            for image in (None, 5, ["a"], {}, "a", "AAAAA", "ä" * 8, "data:;base64,*")
        ),
        *(
            ({"images": some}, "images must be a list of 1 to 10 items")
            for some in ([], TEXT, None, {}, [TEXT] * 11)
        ),
        ({"urls": ["http://a.example"] * 11}, "urls must be a list of 1 to 10 items"),
    ],
)
def test_wrong_fields_are_named(stack, event, message):
    assert stack.invoke(event) == error("invalid_request", message)


def test_base64_may_be_wrapped_and_be_a_data_url(stack):
    whole, wrapped = stack.invoke({"image": TEXT}), "\n".join(re.findall(".{1,76}", TEXT))
    for same in (wrapped, f"data:image/jpeg;base64,{TEXT}", f"data:;base64,{TEXT}\r\n"):
        assert stack.invoke({"image": same}) == whole


# --- Images -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def most_seconds(ask):
    """The CPU time that an image may cost: three times that of the largest that is accepted."""
    event = {"image": base64.b64encode(odd_images.named("50_megapixels_3.png")).decode()}
    return 3 * max(ask(event).seconds for _ in range(2))


@pytest.mark.parametrize("group", odd_images.GROUPS, ids=lambda group: group.__name__)
def test_odd_and_hostile_images(ask, most_seconds, subtests, group):
    """One subtest for each image: a failure does not keep the other images from being tried."""
    for name, data, expected in group():
        with subtests.test(name):
            answered = ask({"image": base64.b64encode(data).decode()})
            assert answered.raised is None
            error = answered.answer.get("error")
            result = error["code"] if error else next(iter(answered.answer["prediction"]))
            assert result == expected if expected else result in (*CODES, *COLOURS)
            assert answered.seconds < most_seconds
            assert answered.peak_mb < 400
    assert ask({"image": TEXT}).peak_mb < 150, "memory has returned"


def test_what_takes_too_long_is_given_up(colour_model):
    """With a limit that is as small for the largest image as the real one is for a costly image."""
    largest = base64.b64encode(odd_images.named("50_megapixels_3.png")).decode()
    with handler_process(colour_model, with_little_time, 0.1) as ask:
        assert ask({"image": largest}).answer == error(
            "too_large", "the image takes too long to decode; send it smaller, or as JPEG"
        )
        assert "prediction" in ask({"image": TEXT}).answer, "the next image is answered"


def test_only_the_start_of_exif_data_is_read():
    """Imported, safe_images has Pillow read EXIF data by its own class."""
    exif = Image.Exif()
    exif.load(odd_images.orientation_exif(6, 100_000))
    assert exif[0x0112] == 6 and exif.get(0x9C9C) is None
    exif.load(odd_images.orientation_exif(6, 1000))
    assert exif.get(0x9C9C) is not None


def test_a_signal_that_comes_too_late_does_nothing():
    with limited_time(time.monotonic() + 60):
        stop = signal.getsignal(signal.SIGPROF)
        with pytest.raises(TooSlow):
            stop()
    stop()
    assert signal.getsignal(signal.SIGPROF) != stop != signal.getsignal(signal.SIGALRM)
    assert signal.getitimer(signal.ITIMER_PROF) == signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_list_of_slow_images_is_answered_before_lambda_ends_it(colour_model, tmp_path):
    """Decoding of a wide image never ends here."""
    slow = saved(drawn_image(1000, 750), format="JPEG")
    texts = [base64.b64encode(data).decode() for data in (*[slow] * 9, JPEG)]
    (tmp_path / "event.json").write_text(json.dumps({"images": texts}))
    code = """
import json, pathlib, sys, time, types, lambda_function
from dog_breeds.serving import safe_images

def slow_pixels(image, *arguments, decode=safe_images.model_pixels):
    while image.width == 1000:
        time.sleep(0.01)
    return decode(image, *arguments)

safe_images.model_pixels = slow_pixels
event, end = json.loads(pathlib.Path(sys.argv[1]).read_text()), time.monotonic() + 10
context = types.SimpleNamespace(
    get_remaining_time_in_millis=lambda: 1000 * (end - time.monotonic())
)
answer = lambda_function.lambda_handler(event, context)
print(json.dumps([answer, end - time.monotonic()]))
"""
    done = run_python(code, tmp_path / "event.json", MODEL_FILE=str(colour_model))
    answer, left = json.loads(done.stdout.splitlines()[-1])
    *given_up, last = answer["predictions"]
    assert [one["error"]["code"] for one in given_up] == ["too_large"] * 9
    assert next(iter(last["prediction"])) == BREED and left > 0


def test_a_list_of_images_that_need_too_much_memory_takes_no_more_than_one(ask):
    large = base64.b64encode(odd_images.named("49_megapixels.webp")).decode()
    answered = ask({"images": [large] * 8 + [TEXT]})
    assert [next(iter(answer)) for answer in answered.answer["predictions"]] == ["error"] * 8 + [
        "prediction"
    ]
    assert answered.peak_mb < 400


@needs_guard
def test_freed_memory_can_be_used_again(colour_model, port):
    """The largest image that is accepted still is after ten downloads at once, and after an image
    that needs too much memory.
    """
    largest, refused = (
        {"image": base64.b64encode(odd_images.named(name)).decode(), "top_k": 1}
        for name in ("50_megapixels_3.png", "49_megapixels.webp")
    )
    with handler_process(colour_model, with_local_server, port, 8.0) as ask:
        assert "prediction" in ask(largest).answer
        downloads = {"urls": [f"http://127.0.0.1:{port}/large.png"] * 10}
        for event in (downloads, refused):
            ask(event)
            answered = ask(largest)
            assert "prediction" in answered.answer, event
            assert answered.peak_mb < 400


# --- Anything -------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
short_urls = [url for url in hostile_urls.direct_urls() if isinstance(url, str) and len(url) < 200]
urls = st.sampled_from(short_urls) | st.text()
images = (
    st.sampled_from([TEXT, TEXT[:400], "data:image/png;base64," + TEXT, "YQ=="])
    | st.text()
    | json_values
)
top_ks = st.integers(-2, 12) | json_values


def fields() -> st.SearchStrategy:
    """Requests that are nearly right."""
    several = {
        "url": urls | json_values,
        "image": images,
        "urls": st.lists(urls | json_values, max_size=11) | json_values,
        "images": st.lists(images, max_size=11) | json_values,
    }
    one = st.sampled_from(list(several)).flatmap(
        lambda name: st.fixed_dictionaries({name: several[name]}, optional={"top_k": top_ks})
    )
    return one | st.fixed_dictionaries({}, optional={**several, "top_k": top_ks})


def changed(event: dict, path: list, value: object) -> dict:
    """The event with one place in it replaced."""
    event = copy.deepcopy(event)
    place = event
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return event


def places(event: dict) -> list[list]:
    """All places in nested dicts."""
    return [
        [key, *rest]
        for key, value in event.items()
        for rest in ([[]] + (places(value) if isinstance(value, dict) else []))
    ]


BODIES = [TEXT, "url=http%3A%2F%2F127.0.0.1%2F&top_k=x", "http://10.0.0.1/", "data:,", "[[", "--x"]
BODIES += ["--x\r\nContent-Disposition: form-data; name=image\r\n\r\n" + TEXT + "\r\n--x--"]
CONTENT_TYPES = [
    "application/json",
    "image/jpeg",
    "text/plain",
    "",
    "multipart/form-data; boundary=x",
]
CONTENT_TYPES += ["application/x-www-form-urlencoded", "application/octet-stream"]
http_events = st.builds(
    lambda service, *request: service(*request),
    st.sampled_from(SERVICES),
    st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "PUT", ""]) | st.text(),
    st.sampled_from(["/", "/predict", "/prod", "/a"]) | st.text(),
    st.dictionaries(st.sampled_from(["url", "top_k", "a"]), urls | st.just("3") | st.text()),
    st.none() | st.text() | fields().map(json.dumps) | st.sampled_from(BODIES),
    st.none() | st.sampled_from(CONTENT_TYPES) | st.text(),
    st.booleans(),
)
broken_http_events = http_events.flatmap(
    lambda event: st.builds(changed, st.just(event), st.sampled_from(places(event)), json_values)
)


def test_any_event_gets_an_answer(colour_model):
    with handler_process(colour_model, without_network) as ask:

        @settings(
            max_examples=10_000 if THOROUGH else 400,
            derandomize=not THOROUGH,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(json_values | fields() | http_events | broken_http_events)
        def check(event: object) -> None:
            answered = ask(event)
            assert answered.raised is None
            answer = answered.answer
            if "statusCode" in answer:
                if answer["body"] == "" or answer["body"].startswith("<!doctype html>"):
                    return
                answer = json.loads(answer["body"])
            assert len(answer.keys() & {"prediction", "predictions", "error", "usage"}) == 1
            if "usage" in answer:
                return
            for part in answer.get("predictions", [answer]):
                assert part.keys() - {"cropped", "turned"} in ({"prediction", "known"}, {"error"})
                if "error" in part:
                    assert part["error"]["code"] in CODES
                    assert not re.search(
                        r"/var|\.py|Traceback|\d+\.\d+\.\d+\.\d+", part["error"]["message"]
                    )
            assert not any("traceback" in log for log in answered.logs)

        check()


# --- Logs, faults, memory -------------------------------------------------------------------------


def test_log_has_one_line_with_what_happened(ask):
    log = ask({"image": TEXT}).log
    assert all(0 <= log.pop(key) < 1000 for key in ("decode_ms", "inference_ms"))
    expected = {"request_id": None, "event": "direct", "source": "image", "outcome": "ok"}
    assert log == {
        **expected,
        "bytes": len(JPEG),
        "size": [500, 375],
        "top_class": BREED,
        "unknown": 0,
        "looks": 1,
    }
    first, second, whole = ask({"images": [TEXT, "?"]}).logs
    assert first.pop("inference_ms") > 0 and first["top_class"] == BREED
    assert (first["photo"], first["photo_outcome"], first["unknown"]) == (1, "ok", 0)
    assert second == {"request_id": None, "photo": 2, "photo_outcome": "invalid_request"}
    assert whole == expected | {"source": "images", "photos": 2}
    log = ask(function_url("GET", "/", {"url": "http://10.0.0.1/secret?token=1"})).log
    assert log.pop("download_ms") >= 0
    assert log == {"request_id": None, "event": "2.0", "source": "url", "outcome": "url_refused"}
    log = ask(rest("GET", "/nowhere.txt")).log
    assert log == {"request_id": None, "event": "1.0", "outcome": "not_found"}


def test_lambda_gives_the_request_id(stack):
    stack.invoke({"image": TEXT})
    assert re.fullmatch("[0-9a-f-]{36}", stack.log()["request_id"])


def test_fault_of_ours_is_logged_and_raised_or_500(colour_model):
    with handler_process(colour_model, with_fault) as ask:
        direct = ask({"image": TEXT})
        assert direct.raised == "ZeroDivisionError('division by zero')"
        answered = ask(function_url("POST", "/", {}, TEXT, "image/jpeg", True))
        for log in (direct.log, answered.log):
            assert log["outcome"] == "internal_error" and "ZeroDivisionError" in log["traceback"]
        body = error("internal_error", "the service failed; the fault is ours and is logged")
        assert answered.answer == response(function_url, 500, body)


def resident(pid: int) -> int:
    """Resident memory of a process, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def test_memory_stays_level(stack):
    """400 requests of all kinds, or 2,000: resident memory at the end is that after the first
    hundred.
    """
    drawn_images = [
        saved(drawn_image(500, 375), **options) for options in odd_images.FORMATS.values()
    ]
    drawn_images += [saved(drawn_image(2000, 1500), format="JPEG"), JPEG[:500]]
    drawn_images.append(saved(drawn_image(1200, 900).convert("RGBA"), format="PNG"))
    texts = [base64.b64encode(data).decode() for data in drawn_images]
    events = [
        *({"image": text} for text in texts),
        {"images": texts[:4]},
        {"url": "http://127.0.0.1/"},
        {"urls": ["http://10.0.0.1/", "http://[::1]/"]},
        {"image": "?"},
        *(service("POST", "/", {}, texts[0], "image/jpeg", True) for service in SERVICES),
    ]
    first = 0
    for number, event in enumerate(
        itertools.islice(itertools.cycle(events), 2000 if THOROUGH else 400), 1
    ):
        answer = stack.invoke(event)
        assert "errorMessage" not in answer and answer.get("statusCode") in (None, 200)
        if number == 100:
            first = resident(stack.runtime_pid())
    assert resident(stack.runtime_pid()) < first * 1.05


# --- Model file and runtime -----------------------------------------------------------------------


def test_unfit_model_files_are_refused_at_start(colour_model, tmp_path):
    bare = colour_model.read_bytes()
    with zipfile.ZipFile(colour_model) as archive:
        bare = bare[: archive.infolist()[0].header_offset]
    breeds = list(COLOURS)
    for name, model, changes in (
        ("good", bare, {}),
        ("other classes than tensors", bare, {"classes": breeds[:9]}),
        ("other size", bare, {"input": {"height": 150}}),
        ("no size", bare, {"input": {}}),
        ("no threshold", bare, {"unknown_rule": {}}),
        ("threshold not a number", bare, {"unknown_rule": RULE | {"threshold": "high"}}),
        ("score without an output", bare, {"unknown_rule": RULE | {"score": "logit"}}),
        ("score of many numbers", bare, {"unknown_rule": RULE | {"score": "probabilities"}}),
        ("candidates without a threshold", bare, {"candidates": {}}),
        ("candidates from a probability of 2", bare, {"candidates": {"threshold": 2}}),
        ("no share", bare, {"photo_share": 0}),
        ("share above 1", bare, {"photo_share": 1.1}),
        ("no model", b"", {}),
        ("other outputs", bare.replace(b"upright", b"UPRIGHT"), {}),
        ("half a model", bare[: len(bare) // 2], {}),
    ):
        (tmp_path / name).write_bytes(model)
        append_facts(tmp_path / name, metadata(breeds) | changes)
    (tmp_path / "no facts").write_bytes(bare)
    code = """
import json, sys, pathlib, lambda_function
for file in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        lambda_function.load_model(file)
    except ValueError as error:
        print(json.dumps([file.name, str(error)]))
"""
    done = run_python(code, tmp_path, MODEL_FILE=str(tmp_path / "good"))
    assert done.returncode == 0, done.stderr
    refused = dict(map(json.loads, done.stdout.splitlines()))
    assert refused.keys() == {file.name for file in tmp_path.iterdir()} - {"good"}
    for name, message in refused.items():
        assert (
            message.startswith(f"{name} is damaged, or was not made by convert_model.py: ")
            and len(message) > 60
        )


def test_start_fails_with_the_reason(tmp_path):
    (tmp_path / "bad.tflite").write_bytes(b"TFL3")
    done = run_python("import lambda_function", MODEL_FILE=str(tmp_path / "bad.tflite"))
    assert done.returncode == 1
    assert (
        "bad.tflite is damaged, or was not made by convert_model.py" in done.stderr.splitlines()[-1]
    )
    done = run_python("import lambda_function", MODEL_FILE=str(tmp_path / "missing.tflite"))
    assert done.returncode == 1 and "missing.tflite" in done.stderr.splitlines()[-1]


PREDICT = """
import sys
if "without" in sys.argv:
    class Hidden:
        def find_spec(name, path=None, target=None):
            if name == "ai_edge_litert":
                raise ModuleNotFoundError(name)
    sys.meta_path.insert(0, Hidden)
    import importlib.util
    real = importlib.util.find_spec
    importlib.util.find_spec = lambda name: None if name == "ai_edge_litert" else real(name)
import json, lambda_function
print(json.dumps(lambda_function.lambda_handler({"image": sys.argv[1]})))
print(sorted({"ai_edge_litert", "tflite_runtime", "requests", "AntiSSRF"} & set(sys.modules)))
lambda_function.lambda_handler({"url": "http://127.0.0.1/"})
print("requests" in sys.modules)
"""


def test_runtimes_agree_and_only_one_is_loaded(colour_model):
    env = {"MODEL_FILE": str(colour_model)}
    _, answer, modules, _, later = run_python(PREDICT, TEXT, **env).stdout.splitlines()
    assert modules == "['ai_edge_litert']", "nor is requests, until it is needed"
    assert later == str(GUARD)
    if not importlib.util.find_spec("tflite_runtime"):
        pytest.skip("tflite-runtime exists for Linux and Python up to 3.11 only")
    for arguments, extra in (((), {"DOG_BREEDS_RUNTIME": "tflite_runtime"}), (("without",), {})):
        _, other, modules, *_ = run_python(
            PREDICT, TEXT, *arguments, **env, **extra
        ).stdout.splitlines()
        assert modules == "['tflite_runtime']"
        assert json.loads(other)["prediction"] == pytest.approx(
            json.loads(answer)["prediction"], abs=1e-4
        )


def test_threads_follow_the_cpus_that_may_be_used(colour_model):
    code = """
import os, sys
allowed = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, allowed[:int(sys.argv[1])])
import lambda_function
print(lambda_function.cpu_count(), len(os.listdir("/proc/self/task")))
"""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is only one CPU here")
    # That NumPy starts none of its own
    env = {"MODEL_FILE": str(colour_model), "OPENBLAS_NUM_THREADS": "1"}
    one, two = (run_python(code, number, **env).stdout.split() for number in (1, 2))
    assert (one[0], two[0]) == ("1", "2")
    assert int(one[1]) < int(two[1])
