"""Images on their side or within borders, in the real Lambda stack and when time is short, and
which attempt counts.
"""

import time

import numpy as np
import pytest
from conftest import ROOT, run
from emulator import emulator
from handler_process import handler_process
from odd_images import BREED, STORED, one_way_up, orientation_exif, screenshot, text
from PIL import Image

from dog_breeds.serving.answers import best_prediction, cut_out, inside_borders

UPRIGHT, SCREENSHOT = one_way_up(), screenshot(one_way_up())
TURNS = {  # how the image was turned, by the degrees clockwise that turn it back
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}
UNKNOWN = Image.new("RGB", (480, 360), (128, 128, 128))


# --- Through the emulator -------------------------------------------------------------------------


def test_turned_images_are_known_and_the_answer_says_how_they_were_turned(stack):
    plain = stack.invoke({"image": text(UPRIGHT)})
    assert plain["known"] and "turned" not in plain
    for degrees, turn in TURNS.items():
        answer = stack.invoke({"image": text(UPRIGHT.transpose(turn)), "top_k": 1})
        assert answer == {
            "prediction": {BREED: pytest.approx(1, abs=0.01)},
            "known": True,
            "turned": degrees,
        }


@pytest.mark.parametrize("orientation", STORED)
def test_a_image_that_exif_turns_is_not_turned_again(stack, orientation):
    stored = text(UPRIGHT.transpose(STORED[orientation]), exif=orientation_exif(orientation))
    answer = stack.invoke({"image": stored})
    assert answer["known"] and "turned" not in answer and next(iter(answer["prediction"])) == BREED


def test_an_unknown_image_stays_unknown_and_gets_its_plain_answer(stack):
    corner = UNKNOWN.copy()
    corner.paste((190, 130, 80), (0, 0, 240, 180))  # nearest to leonberg, but too far away
    corner.paste((110, 100, 90), (240, 180, 480, 360))
    answer = stack.invoke({"image": text(corner), "top_k": 1})
    assert answer == {"prediction": {BREED: pytest.approx(1, abs=0.1)}, "known": False}


def test_a_image_within_borders_is_known_without_them(stack):
    for turn, expected in ((None, {}), (Image.Transpose.ROTATE_90, {"turned": 90})):
        answer = stack.invoke(
            {"image": text(SCREENSHOT.transpose(turn) if turn else SCREENSHOT), "top_k": 1}
        )
        expected |= {
            "prediction": {BREED: pytest.approx(1, abs=0.01)},
            "known": True,
            "cropped": True,
        }
        assert answer == expected


def test_client_says_how_the_image_was_seen(stack, tmp_path):
    SCREENSHOT.transpose(TURNS[90]).save(tmp_path / "scan.png")
    lines = run(
        "test.py", "--file", tmp_path / "scan.png", "--endpoint", stack.endpoint
    ).stdout.splitlines()
    assert lines[0] == "The borders of the image were cut off."
    assert lines[1] == "The image was turned clockwise by 90 degrees." and lines[2].startswith(
        BREED
    )


@pytest.fixture(scope="module")
def slow(colour_model):
    """The handler with a model that needs 0.55 s for an inference, and has 5 s for a request."""
    env = {"PYTHONPATH": str(ROOT / "tests"), "AWS_LAMBDA_FUNCTION_TIMEOUT": "5"}
    with emulator(colour_model, "slow_handler.lambda_handler", **env) as running:
        while b"timed out" in running.post(b"{}"):  # its start, on a busy machine
            pass
        yield running


def answer_and_inferences(stack, event):
    """The answer, and how many inferences it took."""
    before = stack.printed().count("inference\n")
    return stack.invoke(event), stack.printed().count("inference\n") - before


def test_turns_stop_where_time_is_short(slow):
    answer, inferences = answer_and_inferences(slow, {"image": text(UPRIGHT.transpose(TURNS[270]))})
    assert answer["known"] is False and "turned" not in answer
    assert 2 <= inferences < 4, "all four would take nearly half of the time that there is"


def test_a_list_of_unknown_images_is_answered_before_the_time_out(slow):
    answers, inferences = answer_and_inferences(slow, {"images": [text(UNKNOWN)] * 5})
    assert [answer["known"] for answer in answers["predictions"]] == [False] * 5
    assert inferences == 5, (
        "even the last has only 1.4 s for further attempts, of which the first would end at 1.65 s"
    )


def test_explanations_are_about_the_image_as_it_was_sent(explaining_model):
    bordered = UNKNOWN.copy()  # a border around a lying image
    bordered.paste(UPRIGHT.transpose(TURNS[90]).resize((240, 180)), (240, 180))
    with handler_process(explaining_model) as ask:
        places = {90: (9, 0), 180: (9, 9), 270: (0, 9)}  # row and column of the breed's quarter
        images = [(UPRIGHT.transpose(turn), places[degrees]) for degrees, turn in TURNS.items()]
        for image, place in (*images, (bordered, (9, 5))):
            answer = ask({"image": text(image), "explain": True}).answer
            cells = np.array(answer["explanation"])
            assert answer["turned"] and cells.shape == (10, 10) and cells[place] > 0.9, answer[
                "turned"
            ]
            assert cells.mean() <= 0.3, "and hardly anything elsewhere"


# --- Which attempt counts -------------------------------------------------------------------------

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 24, 3)).astype(np.float32)


def model(scores, upright, always=False):
    """A model with a score for each turn by which the pixels are turned, and what it was
    asked.
    """
    asked = []

    def run(pixels):
        (turned,) = (
            turned
            for turned in (0, 90, 180, 270)
            if (pixels == np.rot90(PIXELS, -turned // 90)).all()
        )
        asked.append(turned)
        view = upright if always or not turned else 0.1
        return np.array([turned], np.float32), scores[turned], view

    return run, asked


@pytest.mark.parametrize(
    ("scores", "upright", "turned", "known"),
    [
        ({0: 0.7, 90: 0.99, 180: 0.99, 270: 0.99}, 0.0, 0, True),  # upright: nothing else is asked
        ({0: 0.1, 90: 0.99, 180: 0.99, 270: 0.99}, 0.1, 0, False),  # though it is not known
        ({0: 0.1, 90: 0.75, 180: 0.8, 270: 0.76}, -0.1, 180, True),
        # Known, but more so when it is turned
        ({0: 0.8, 90: 0.1, 180: 0.85, 270: 0.9}, -0.1, 270, True),
        ({0: 0.8, 90: 0.1, 180: 0.75, 270: 0.7}, -0.1, 0, True),
        ({0: 0.1, 90: 0.2, 180: 0.699, 270: 0.3}, -0.1, 0, False),
    ],
)
def test_the_turn_with_the_highest_score_is_taken_if_it_is_known(scores, upright, turned, known):
    run, asked = model(scores, upright)
    best, attempts = best_prediction(run, PIXELS, 0.7)
    assert (best.turned, best.score, best.known) == (turned, scores[turned], known)
    assert best.probabilities.tolist() == [turned]
    assert (best.pixels == np.rot90(PIXELS, -turned // 90)).all()
    assert asked == ([0] if upright >= 0 else [0, 90, 180, 270]) and attempts == len(asked)


def test_a_turned_view_that_seems_to_be_turned_itself_does_not_count():
    for scores, known in (
        ({0: 0.1, 90: 0.9, 180: 0.9, 270: 0.9}, False),
        ({0: 0.8, 90: 0.9, 180: 0.9, 270: 0.9}, True),
    ):
        run, _ = model(scores, -0.1, always=True)
        best, attempts = best_prediction(run, PIXELS, 0.7)
        assert (best.turned, best.known, attempts) == (0, known, 4)


def test_inside_of_borders_is_found_to_the_pixel_and_scaled():
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.float32)
    for colour in (0, 90, 255):
        whole = np.full((160, 160, 3), colour, np.float32)
        whole[7:67, 70:150] = noise
        whole[90:96, 10:90] = 255 - colour  # a line of text
        inside = cut_out(whole, inside_borders(whole))
        expected = Image.fromarray(noise.astype(np.uint8)).resize(
            (160, 160), Image.Resampling.BILINEAR
        )
        assert (
            inside.dtype == np.float32 and abs(inside - np.asarray(expected, np.float32)).max() <= 1
        )


@pytest.mark.parametrize("side", [0, 20, 150, 160])
def test_without_borders_or_with_hardly_anything_else_there_is_no_inside(side):
    whole = np.full((160, 160, 3), 255, np.float32)
    whole[:side, :side] = np.random.default_rng(0).integers(0, 256, (side, side, 3))
    assert inside_borders(whole) is None


@pytest.mark.parametrize(
    ("known_at", "upright", "views"), [(0, 0.1, 2), (180, -0.1, 5), (None, -0.1, 5), (None, 0.1, 2)]
)
def test_a_view_without_borders_is_asked_and_turned_if_it_seems_to_be(known_at, upright, views):
    whole = np.full((160, 160, 3), 255, np.float32)
    whole[:80, :80] = np.random.default_rng(0).integers(0, 256, (80, 80, 3))
    inside = cut_out(whole, inside_borders(whole))
    asked = []

    def run(pixels):
        asked.append(pixels)
        right = known_at is not None and (pixels == np.rot90(inside, known_at // 90)).all()
        return np.ones(1), *((0.9, abs(upright)) if right else (0.1, upright))

    best, attempts = best_prediction(run, whole, 0.7)
    assert (best.box is not None, best.turned) == (known_at is not None, known_at or 0)
    assert attempts == len(asked) == views


def test_no_time_no_turns():
    run, asked = model({0: 0.1, 90: 0.9, 180: 0.9, 270: 0.9}, -0.1)
    assert best_prediction(run, PIXELS, 0.7, until=time.monotonic() - 1)[0].turned == 0
    assert asked == [0]
