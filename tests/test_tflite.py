"""Model files: the converted backbone, and a head that is joined to it, read and removed."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from ai_edge_litert.tools import flatbuffer_utils
from conftest import SIZE

from dog_breeds.learning import features, heads
from dog_breeds.learning.metrics import log_softmax
from dog_breeds.learning.tflite import (
    cut_backbone,
    inspect_backbone,
    join_head,
    load_file,
    read_head,
)
from dog_breeds.serving.explanation import explanation_tensors
from dog_breeds.serving.facts import append_facts


@pytest.fixture(scope="module")
def backbone(small):
    """Return the file of the int8 backbone for SIZE pixels."""
    return small.task.backbone


@pytest.fixture(scope="module")
def again(small, in_keras_process, tmp_path_factory):
    """Make the backbone again; return its file and the file before the RELUs are fused."""
    files = [
        tmp_path_factory.mktemp("again") / f"{name}.tflite" for name in ("finished", "unfused")
    ]
    task = small.task
    in_keras_process(
        "keras_side",
        "write_unfused",
        task.weights,
        SIZE,
        features.calibration_views(task),
        *files,
    )
    return files


@pytest.fixture(scope="module")
def pixels(small):
    """Return the pixels of six test crops."""
    task = small.task
    return [
        features.load_pixels(features.crop_view(task, image), SIZE)
        for image in task.images("test")[:6]
    ]


def drawn_head(inner_size, classes=120, seed=0):
    """Return random weights of a head, class means and weights of the score of upright images."""
    rng = np.random.default_rng(seed)
    weights = [10 * array for array in heads.first_weights(inner_size, classes, 2048, rng)]
    weights[1::2] = [rng.normal(size=bias.shape).astype(np.float32) for bias in weights[1::2]]
    means = rng.random((classes, 2048), np.float32)
    upright = [rng.normal(size=shape).astype(np.float32) for shape in ((2048, 1), (1,))]
    return weights, means / np.linalg.norm(means, axis=1, keepdims=True), upright


# --- The backbone ---------------------------------------------------------------------------------


def test_the_same_images_give_the_same_bytes(backbone, again):
    assert cut_backbone(again[0].read_bytes()) == cut_backbone(backbone.read_bytes())


def test_features_are_the_float_mean_of_the_map(backbone, pixels):
    outputs = load_file(backbone)(pixels[0])
    assert {name: output.shape for name, output in outputs.items()} == {
        "features": (2048,),
        "map": (3, 3, 2048),
    }
    np.testing.assert_allclose(
        outputs["features"], outputs["map"].mean(axis=(0, 1)), rtol=1e-5, atol=1e-6
    )


def graph_of(file):
    """Return the graph of a model file, and the type of each of its operators."""
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(file.read_bytes()))
    names = {
        value: name
        for name, value in vars(schema.BuiltinOperator).items()
        if isinstance(value, int)
    }
    graph = model.subgraphs[0]
    return graph, [
        names[model.operatorCodes[operator.opcodeIndex].builtinCode] for operator in graph.operators
    ]


def test_fused_relus_are_gone_and_are_the_relus_of_the_same_sums(backbone, again, pixels):
    (graph, after), (_, before) = graph_of(backbone), graph_of(again[1])
    assert before.count("RELU") == 11 and after.count("RELU") == 0
    assert after.count("ADD") == before.count("ADD") + 11
    adds = [
        operator for operator, kind in zip(graph.operators, after, strict=True) if kind == "ADD"
    ]
    fused = [add for add in adds if add.builtinOptions.fusedActivationFunction]
    assert len(fused) == 11

    interpreter = Interpreter(
        str(backbone),
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    interpreter.set_tensor(
        interpreter.get_input_details()[0]["index"], pixels[0][None].astype(np.float32)
    )
    interpreter.invoke()
    quantization = {
        detail["index"]: detail["quantization"] for detail in interpreter.get_tensor_details()
    }

    def value(index):
        scale, zero = quantization[index]
        return (interpreter.get_tensor(index).astype(np.float64) - zero) * scale

    for add in fused:
        a, b, output = map(value, (*add.inputs, *add.outputs))
        step = quantization[add.outputs[0]][0]
        # Values above the int8 range are clipped
        highest = output.max() if output.max() >= 254 * step else np.inf
        assert np.abs(output - np.clip(a + b, 0, highest)).max() <= step
        assert output.max() > 10 * step


def test_calm_half_leaves_wild_images_out(small, in_keras_process):
    views = features.calibration_views(small.task)[:6]
    calm = in_keras_process("keras_side", "calm_half", small.task.weights, SIZE, views, views[2])
    assert len(calm) == 3 and views[2] not in calm and set(calm) < set(views)


# --- The head -------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner_size", [0, 30])
def test_a_joined_file_answers_as_numpy_and_its_features_are_the_backbones(
    backbone, pixels, tmp_path, inner_size
):
    head, means, upright = drawn_head(inner_size)
    file = tmp_path / "joined.tflite"
    file.write_bytes(join_head(backbone.read_bytes(), head, means, upright))
    run, bare = load_file(file), load_file(backbone)
    for photo in pixels:
        outputs, expected = run(photo), bare(photo)
        assert list(outputs) == [
            "probabilities",
            "logit",
            "similarity",
            "upright",
            "features",
            "map",
        ]
        for name in ("features", "map"):
            assert (outputs[name] == expected[name]).all()
        x = outputs["features"][None].astype(np.float64)
        exact = np.exp(
            log_softmax(heads.apply_head([array.astype(np.float64) for array in head], x))
        )
        assert exact.std() > 1e-3
        np.testing.assert_allclose(outputs["probabilities"][None], exact, rtol=0, atol=1e-5)
        logits = heads.apply_head(head, x)
        np.testing.assert_allclose(outputs["logit"], logits.max(axis=1), atol=1e-4)
        # The file holds the means in float16
        np.testing.assert_allclose(outputs["similarity"], heads.similarity(x, means), atol=1e-4)
        np.testing.assert_allclose(
            outputs["upright"][None], x @ upright[0] + upright[1], rtol=1e-5, atol=1e-4
        )
    interpreter = Interpreter(str(file))
    assert set(interpreter.get_signature_list()["serving_default"]["outputs"]) == set(outputs)
    interpreter.allocate_tensors()
    assert bool(explanation_tensors(interpreter)) == (inner_size == 0)


@pytest.mark.parametrize(("old", "new"), [(0, 0), (0, 30), (30, 0), (30, 20)])
def test_a_head_that_is_there_is_cut_off(backbone, tmp_path, old, new):
    finished = tmp_path / "finished.tflite"
    finished.write_bytes(join_head(backbone.read_bytes(), *drawn_head(old, classes=10)))
    append_facts(finished, {"classes": [str(number) for number in range(10)]})
    head, means, upright = drawn_head(new, classes=4, seed=1)
    joined = join_head(finished.read_bytes(), head, means, upright)
    assert joined == join_head(backbone.read_bytes(), head, means, upright)
    assert cut_backbone(joined) == cut_backbone(backbone.read_bytes())
    finished.write_bytes(joined)
    arrays, same_means, same_upright = read_head(finished)
    pairs = zip([*arrays, *same_upright], [*head, *upright], strict=True)
    assert len(arrays) == len(head) and all((a == b).all() for a, b in pairs)
    assert (same_means == means.astype(np.float16)).all()


def test_a_head_of_other_features_is_refused(backbone):
    head, means, upright = drawn_head(0)
    with pytest.raises(ValueError, match="the backbone has 2048 features, the head takes 100"):
        join_head(backbone.read_bytes(), head, means[:, :100], upright)


def test_files_without_a_backbone_are_named(colour_model, tmp_path):
    other = tmp_path / "other.tflite"
    other.write_bytes(b"no model")
    for file, said in ((colour_model, "no backbone: the outputs are"), (other, "no TensorFlow")):
        with pytest.raises(ValueError, match=f"{file.name}: {said}"):
            inspect_backbone(file)


def test_a_backbone_alone_has_no_head_to_read(backbone):
    with pytest.raises(ValueError, match="without a head"):
        read_head(backbone)
