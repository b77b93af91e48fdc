"""From a float .tflite to a quantized one by a scheme: litert-quantizer's recipes, and the checks of the result.

The flatbuffer goes in and comes out without metadata behind it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from tinydet_lite.errors import UserError
from tinydet_lite.status import doing
from tinydet_tf.export.bias_correction import correct_biases, put_biases
from tinydet_tf.export.bias_room import with_room_for_biases
from tinydet_tf.export.calibration import INSTALL, Calibration, CalibrationImages, Observation, observe, ranges
from tinydet_tf.export.equalization import channel_factors, divided, equalized
from tinydet_tf.export.operators import Operator, operators
from tinydet_tf.export.packing import add_entry, read, write
from tinydet_tf.export.schemes import Scheme, in_scopes, scope_pattern
from tinydet_tf.export.scopes import IMAGE, TABLE
from tinydet_tf.export.shared_ranges import passed_on, shared

#: By which XNNPACK computes, and adds up, in float16 where the processor has it, and in float32 elsewhere.
FLOAT16_ARITHMETIC = (b"reduced_precision_support", b"fp16accfp16")
#: What pixels can be: in steps of 1 an int8 says each of them.
PIXELS = (0.0, 255.0)
_FLOAT, _UINT8 = schema.TensorType.FLOAT32, schema.TensorType.UINT8


@dataclasses.dataclass(frozen=True)
class Quantized:
    """A quantized flatbuffer, and what it was calibrated with if it was."""

    model: bytes
    calibration: Calibration | None = None


def check_given(scheme: Scheme, samples: CalibrationImages | None, kept: Calibration | None) -> None:
    """Refuses what `quantize` could not do, before the conversion, which takes seconds.

    Raises:
      UserError: litert-quantizer is missing, or calibration images are.
    """
    if scheme.weights != "float32":
        _library()
    if scheme.integer and samples is None and kept is None:
        raise UserError(f"{scheme.name} needs calibration images; give some")


def quantize(
    model: bytes,
    scheme: Scheme,
    samples: CalibrationImages | None = None,
    *,
    observations: dict[str, Observation] | None = None,
    kept: Calibration | None = None,
    progress: bool = False,
) -> Quantized:
    """Quantizes a float .tflite.

    Args:
      model: float, of a graph of `graph.GRAPHS`; scopes are read from its tensors' names.
      scheme: which parts and how.
      samples: calibration images, for schemes that need them.
      observations: what `observe` gave for these samples, if it is there already: of all of `observed_tensors` that
        the scheme may quantize. Those of the host's graph do for the tasks', whose own part stays float.
      kept: what these weights were calibrated with before, by this scheme and, possibly, in another graph: taken
        instead of samples.
      progress: say on a terminal what is being done, with a bar while calibrating.

    Raises:
      UserError: litert-quantizer is missing, calibration images, observations or what was kept are missing or do not
        fit, or the scheme's parts name nothing in the model.
    """
    check_given(scheme, samples, kept)
    if scheme.weights == "float32":
        return Quantized(model)
    found = operators(model)
    covered = [op for op in found if scheme.covers(op.name)]
    if not any(op.has_weights for op in covered):
        parts = ", ".join(scheme.parts)
        raise UserError(f"nothing of the model is in the parts that are to be quantized ({parts}); check their names")
    calibration = None
    if scheme.integer:
        if kept is not None:
            calibration = _taken(kept, covered)
        else:
            assert samples is not None
            calibration = _measured(model, scheme, samples, observations, progress=progress)
        pixels = {name: PIXELS for op in found if in_scopes(op.name, (IMAGE,)) for name in op.float_tensors}
        # Each level of the pyramid keeps its own for the RPN: the table, which joins them, has the widest.
        sharing = [op for op in covered if not in_scopes(op.name, (TABLE,))]
        calibration = dataclasses.replace(calibration, ranges=shared({**calibration.ranges, **pixels}, sharing))
        model = equalized(model, calibration.factors)
        if scheme.activation_bits == 8:
            model = with_room_for_biases(model, calibration.ranges)
    with doing("quantizing", tell=progress):
        parsed = read(_apply(model, _recipe(scheme), calibration))
    if calibration is not None and scheme.activation_bits == 8 and scheme.bias_correction:
        if kept is not None:
            try:
                put_biases(parsed, kept.biases)
            except KeyError as error:
                raise _another_version(error.args) from error
        else:
            assert samples is not None
            biases = correct_biases(parsed, model, samples.images, progress=progress)
            calibration = dataclasses.replace(calibration, biases=biases)
    if scheme.arithmetic == "float16":
        add_entry(parsed, *FLOAT16_ARITHMETIC)
    content = write(parsed)
    check(content)
    return Quantized(content, calibration)


def _measured(
    model: bytes,
    scheme: Scheme,
    samples: CalibrationImages,
    observations: dict[str, Observation] | None,
    *,
    progress: bool,
) -> Calibration:
    """What the images give, each tensor for itself, with no bias corrected yet."""
    if observations is None:
        observations = observe(model, samples, observed_tensors(model), progress=progress)
    factors = {}
    if scheme.activation_bits == 8 and scheme.equalization:
        factors = channel_factors(model, observations, scheme.covers)
    return Calibration(
        method=scheme.method,
        source=samples.source,
        seed=samples.seed,
        image_ids=samples.image_ids,
        files=samples.files,
        ranges=ranges(divided(observations, factors), scheme.method),
        factors=factors,
    )


def _taken(kept: Calibration, covered: Sequence[Operator]) -> Calibration:
    """What was kept, for the operators that are to be quantized, in the graph's order."""
    found = passed_on(kept.ranges, covered)
    if missing := {name for op in covered for name in op.float_tensors} - set(found):
        raise _another_version(missing)
    return dataclasses.replace(kept, ranges=found)


def _another_version(missing: Collection[str]) -> UserError:
    return UserError(
        f"the calibration that was kept knows nothing of {len(missing)} tensors of this graph, for example "
        f"{min(missing)!r}: another version kept it; remove its file to calibrate with images instead"
    )


def observed_tensors(model: bytes) -> tuple[str, ...]:
    """The tensors whose ranges any static scheme may need: every float one that is computed, by name."""
    return tuple(dict.fromkeys(name for op in operators(model) for name in op.float_tensors))


def written_tensors(model: bytes) -> tuple[str, ...]:
    """Of each operator of the main graph, in order, the name of the first tensor it writes."""
    return tuple(op.name for op in operators(model))


def check(model: bytes) -> None:
    """That a quantized model can go wherever the float one went.

    Raises:
      RuntimeError: operators that are not builtin, several subgraphs, an input that is not uint8, outputs that are not
        float32.
    """
    parsed = schema.ModelT.InitFromPackedBuf(model, 0)
    if len(parsed.subgraphs) != 1:
        raise RuntimeError(f"the quantized model has {len(parsed.subgraphs)} subgraphs instead of one")
    if any(code.customCode is not None for code in parsed.operatorCodes):
        raise RuntimeError("the quantized model needs operators that are not builtin")
    (graph,) = parsed.subgraphs
    inputs, outputs = ([graph.tensors[i].type for i in ids] for ids in (graph.inputs, graph.outputs))
    if set(inputs) != {_UINT8} or set(outputs) != {_FLOAT}:
        raise RuntimeError(f"the quantized model has inputs of type {inputs} and outputs of type {outputs}")


def _recipe(scheme: Scheme) -> Any:
    """litert-quantizer's recipe: the last rule that matches an operator counts."""
    library = _library()
    every = library.qtyping.TFLOperationName.ALL_SUPPORTED
    names = library.algorithm_manager.AlgorithmName
    algorithm = names.MIN_MAX_UNIFORM_QUANT
    rules = library.recipe_manager.RecipeManager()
    parts = scope_pattern(scheme.parts) if scheme.parts else ".*"
    if scheme.weights == "float16":
        rules.add_weight_only_config(parts, every, 16, algorithm_key=names.FLOAT_CASTING)
    elif scheme.activation_bits == "dynamic":
        rules.add_dynamic_config(parts, every, 8, algorithm_key=algorithm)
        # With a scale a channel, tflite-runtime 2.14 makes zeros of these.
        whole = library.qtyping.QuantGranularity.TENSORWISE
        dense = library.qtyping.TFLOperationName.FULLY_CONNECTED
        rules.add_dynamic_config(parts, dense, 8, granularity=whole, algorithm_key=algorithm)
        # XNNPACK does not take them over with ranges as the model runs.
        depthwise = library.qtyping.TFLOperationName.DEPTHWISE_CONV_2D
        rules.add_weight_only_config(parts, depthwise, 16, algorithm_key=names.FLOAT_CASTING)
    else:
        rules.add_static_config(parts, every, scheme.activation_bits, 8, algorithm_key=algorithm)
    if scheme.float_parts:
        rules.add_quantization_config(scope_pattern(scheme.float_parts), every, algorithm_key=names.NO_QUANTIZE)
    return rules.get_quantization_recipe()


def _apply(model: bytes, recipe: Any, calibration: Calibration | None) -> bytes:
    quantizer = _library().quantizer.Quantizer(bytearray(model), recipe)
    statistics = None
    if calibration is not None:
        # Of as many dimensions as the tensor has: constants are rounded by them, too.
        (graph,) = read(model).subgraphs
        ones = {tensor.name.decode(): [1] * len(tensor.shape) for tensor in graph.tensors}
        statistics = {
            name: {"min": np.full(ones[name], low, np.float32), "max": np.full(ones[name], high, np.float32)}
            for name, (low, high) in calibration.ranges.items()
            if name in ones
        }
    # It draws a progress bar of its transformations that nothing switches off.
    with contextlib.redirect_stderr(io.StringIO()):
        done = quantizer.quantize(statistics, enable_progress_bar=False, enable_progress_report=False)
    return bytes(done.quantized_model)


def _library() -> Any:
    """litert_quantizer with the modules that are used here.

    Raises:
      UserError: it is not installed.
    """
    try:
        import litert_quantizer
        from litert_quantizer import algorithm_manager, qtyping, quantizer, recipe_manager  # noqa: F401
    except ImportError as error:
        raise UserError(f"quantization needs litert-quantizer ({error}); {INSTALL}") from error
    return litert_quantizer
