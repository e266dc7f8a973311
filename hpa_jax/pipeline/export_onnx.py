"""`export --to=onnx` and `--to=bioimageio`: the submission's scores for programs without JAX.

onnx: one graph from uint8[N, side, side, 4] to scores float32[N, C], over all networks and views.
bioimageio: the same graph as a package of the BioImage Model Zoo (bioimage.io).
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np

from hpa_jax import __version__
from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError
from hpa_jax.pipeline import export, model_card
from hpa_jax.pipeline.context import Context

if TYPE_CHECKING:
    from hpa_jax.decision.bundle import Bundle

OPSET = 23
TOLERANCE = 1e-4  # between the scores of the graph and those of the networks
INSTALL = 'pip install "hpa_jax[export]"'
USE = """
    import json
    import numpy as np
    import onnxruntime

    program = onnxruntime.InferenceSession("model.onnx")
    about = json.load(open("thresholds.json"))
    images = np.zeros((1, about["image_size"], about["image_size"], 4), np.uint8)  # yours
    (scores,) = program.run(None, {"image": images})
    thresholds = [float("inf") if t is None else t for t in about["thresholds"]]
    labels = scores >= np.array(thresholds)
"""


def onnx(context: Context) -> Path:
    """Write model.onnx, thresholds.json and README.md -> export/onnx/.

    Raises:
        InputError: an earlier step has not run, the stack decides, networks take images of
            different sizes, or the converter is not installed or changes the scores.
    """
    packed = export.without_trees(export.packed_of(context), "onnx")
    graph, _, _ = _graph(packed)
    folder = context.path("export", "onnx")
    with artifacts.atomic(folder) as temporary:
        temporary.mkdir(parents=True)
        (temporary / "model.onnx").write_bytes(graph)
        _write_thresholds(temporary, packed)
        (temporary / "README.md").write_text(model_card.text(context, packed, USE), "utf-8")
    return folder


def bioimageio(context: Context) -> Path:
    """Write a package of the BioImage Model Zoo -> export/bioimageio/model.zip.

    Its graph, test image and expected scores pass `bioimageio.core.test_model`.

    Raises:
        InputError: as `onnx`, or the package fails the Zoo's validation.
    """
    try:
        from bioimageio import core, spec
    except ImportError:
        raise InputError(f"export --to=bioimageio: {INSTALL}") from None
    packed = export.without_trees(export.packed_of(context), "bioimageio")
    graph, image, scores = _graph(packed)
    folder = context.path("export", "bioimageio")
    with artifacts.atomic(folder) as temporary:
        parts = temporary / "parts"
        parts.mkdir(parents=True)
        (parts / "model.onnx").write_bytes(graph)
        np.save(parts / "image.npy", image)
        np.save(parts / "scores.npy", scores)
        _write_thresholds(parts, packed)
        (parts / "README.md").write_text(model_card.text(context, packed), "utf-8")
        described = _described(packed, parts, image.shape[1])
        spec.save_bioimageio_package(described, output_path=temporary / "model.zip")
        summary = core.test_model(temporary / "model.zip")
        if summary.status == "failed":
            messages = "; ".join(
                f"{'.'.join(map(str, error.loc))}: {error.msg}"
                for detail in summary.details
                for error in detail.errors
            )
            raise InputError(f"export --to=bioimageio: the package does not validate: {messages}")
        shutil.rmtree(parts)
    return folder / "model.zip"


def _write_thresholds(folder: Path, packed: "Bundle") -> None:
    facts = {**export.about(packed), "image_size": export.one_side(packed)}
    artifacts.write_json(folder / "thresholds.json", facts)


def _graph(packed: "Bundle") -> tuple[bytes, np.ndarray, np.ndarray]:
    """Return (ONNX model of any N, test image uint8[1, S, S, 4], its scores float32[1, C])."""
    try:
        import jax2onnx
        import onnxruntime
    except ImportError:
        raise InputError(f"export --to=onnx: {INSTALL}") from None
    import jax
    import jax.numpy as jnp

    side = export.one_side(packed)
    program = export.program_of(packed)
    with _no_platforms():
        model = jax2onnx.to_onnx(
            program,
            [jax.ShapeDtypeStruct((1, side, side, 4), jnp.uint8)],
            **dict(opset=OPSET, input_names=["first"], output_names=["its_scores"]),
        )
    graph = _for_each_image(model).SerializeToString()
    images = np.random.default_rng(0).integers(0, 256, (2, side, side, 4), np.uint8)
    onnxruntime.set_default_logger_severity(3)  # silences warnings about shapes
    session = onnxruntime.InferenceSession(graph)
    (scores,) = session.run(None, {"image": images})
    difference = float(np.abs(scores - np.asarray(jax.jit(program)(images))).max())
    if not difference <= TOLERANCE:
        raise InputError(
            f"export --to=onnx: converted scores differ by {difference:.2g}, more than {TOLERANCE}"
        )
    return graph, images[:1], scores[:1]


def _for_each_image(model: Any) -> Any:
    """Return a model image uint8[N, ...] -> scores [N, ...] that repeats one of N = 1.

    The converter takes no symbolic N: `jnp.full` of one, among others, ends in an error there.
    """
    from onnx import helper

    graph = model.graph
    types = [value.type.tensor_type for value in (*graph.input, *graph.output)]
    shapes = [[size.dim_value for size in kind.shape.dim[1:]] for kind in types]

    def values(names: tuple[str, str], first: list[str]) -> list[Any]:
        parts = zip(names, types, shapes, strict=True)
        return [
            helper.make_tensor_value_info(name, kind.elem_type, [*first, *shape])
            for name, kind, shape in parts
        ]

    # Scan takes the first axis off; the repeated graph has it, with length 1.
    axis = helper.make_node("Constant", [], ["axis"], value_ints=[0])
    before = helper.make_node("Unsqueeze", ["row", "axis"], [graph.input[0].name])
    after = helper.make_node("Squeeze", [graph.output[0].name, "axis"], ["row_scores"])
    row, row_scores = values(("row", "row_scores"), [])
    nodes = [axis, before, *graph.node, after]
    body = helper.make_graph(nodes, "image", [row], [row_scores], graph.initializer)
    scan = helper.make_node("Scan", ["image"], ["scores"], num_scan_inputs=1, body=body)
    images, scores = values(("image", "scores"), ["N"])
    repeated = type(model)()
    repeated.CopyFrom(model)
    repeated.graph.CopyFrom(helper.make_graph([scan], "images", [images], [scores]))
    return repeated


@contextlib.contextmanager
def _no_platforms() -> Iterator[None]:
    """Use the default branch of `jax.lax.platform_dependent`, which ONNX lacks."""
    import jax

    def plain(*operands: Any, default: Any, **_: Any) -> Any:
        return default(*operands)

    with mock.patch.object(jax.lax, "platform_dependent", plain):
        yield


def _described(packed: "Bundle", parts: Path, side: int) -> Any:
    """Return the package's description, a `ModelDescr` of bioimageio.spec."""
    from bioimageio.spec.model import v0_5 as zoo

    names = ", ".join(member.name for member in packed.members)
    axes = [zoo.SpaceInputAxis(id=zoo.AxisId(name), size=side) for name in ("y", "x")]
    stains = [zoo.Identifier(name) for name in ("red", "green", "blue", "yellow")]
    inputs = zoo.InputTensorDescr(
        id=zoo.TensorId("image"),
        axes=[
            zoo.BatchAxis(),
            *axes,
            zoo.ChannelAxis(channel_names=stains),
        ],
        test_tensor=zoo.FileDescr(source=parts / "image.npy"),
        data=zoo.IntervalOrRatioDataDescr(type="uint8", range=(0, 255)),
    )
    classes = [zoo.Identifier(f"class_{number}") for number in range(len(packed.class_names))]
    outputs = zoo.OutputTensorDescr(
        id=zoo.TensorId("scores"),
        description="one score per class; see thresholds.json for classes and thresholds",
        axes=[zoo.BatchAxis(), zoo.ChannelAxis(channel_names=classes)],
        test_tensor=zoo.FileDescr(source=parts / "scores.npy"),
        data=zoo.IntervalOrRatioDataDescr(type="float32", range=(0, 1)),
    )
    return zoo.ModelDescr(
        name="Protein localisation in fluorescence images of cells",
        description=f"Scores of {len(packed.class_names)} compartments by {names}",
        version=zoo.Version(__version__),
        documentation=zoo.FileDescr(source=parts / "README.md"),
        attachments=[zoo.FileDescr(source=parts / "thresholds.json")],
        tags=["fluorescence", "protein-localisation", "2d", "image-classification"],
        inputs=[inputs],
        outputs=[outputs],
        weights=zoo.WeightsDescr(
            onnx=zoo.OnnxWeightsDescr(source=parts / "model.onnx", opset_version=OPSET)
        ),
    )
