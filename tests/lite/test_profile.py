"""Time per operator: the recorded events, their names and scopes, and the command."""

import json

import numpy as np
import pytest

from tinydet_lite import UserError
from tinydet_lite.commands.profile import main
from tinydet_lite.guard.flatbuffer import read_flatbuffer
from tinydet_lite.lab import litert_profiler
from tinydet_lite.lab import operators as profile_module
from tinydet_lite.lab.ceiling import LAYERS, STACK_MACS, conv_stack
from tinydet_lite.lab.inspection import InputTensor, Inspection, Node, inspect_model
from tinydet_lite.lab.litert_profiler import Event, Run, group_events, profile_runs, split_words
from tinydet_lite.lab.operators import NO_SCOPE, align, input_value, name_operators, profile, scope_of

pytest.importorskip("ai_edge_litert", reason="the profiler is LiteRT's")


@pytest.fixture(scope="module", params=[False, True], ids=["float32", "int8"])
def stack(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("stack") / "stack.tflite"
    path.write_bytes(conv_stack(request.param))
    return path


def test_a_profiler_that_takes_too_long_says_what_helps(tmp_path, monkeypatch):
    monkeypatch.setattr(litert_profiler, "_TIMEOUT_SECONDS", 0.01)
    with pytest.raises(UserError, match=r"took longer than 0\.01 s; ask for fewer runs"):
        litert_profiler._call_child(str(tmp_path))


def test_each_convolution_of_the_stack_is_timed_and_named(stack, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = profile(stack, runs=3)
    convolutions = [operator for operator in found.operators if operator.macs]
    assert [operator.tensor for operator in convolutions] == [
        *(f"conv{layer}/output" for layer in range(LAYERS - 1)), "output"
    ]  # fmt: skip
    assert all(operator.partition == 0 and operator.operator == "CONV_2D" for operator in convolutions)
    assert sum(operator.macs for operator in found.operators) == STACK_MACS
    # They are alike, so each takes a part of the whole; the profiler's own cost is small beside 5 ms and more.
    # Operators and whole calls are timed in different runs, which a busy machine stretches as it likes.
    assert all(operator.milliseconds > 0 for operator in convolutions) and found.invoke_ms > 0
    assert found.runtime.startswith("ai_edge_litert 2.") and found.matched_partitions
    groups = found.by_kind()
    assert groups[0].count == LAYERS and groups[0].macs == STACK_MACS
    assert sum(group.share for group in groups) == pytest.approx(1)
    assert found.parts() is None
    assert {group.name for group in found.by_scope()} == {"conv0", "conv1", "conv2", NO_SCOPE}


def test_the_runtimes_own_kernels_are_those_of_the_inspection(model_path):
    model = read_flatbuffer(model_path)
    inspection = inspect_model(model)
    image = np.zeros((1, 64, 64, 3), np.uint8)
    runs = profile_runs(model, {inspection.inputs[0].name: image}, 2)
    inside = {event.partition for event in runs[0].events} - {None}
    assert inside == set(range(len(inspection.partitions)))
    told = {event.node for event in runs[0].events} - {None}
    assert told == {node.index for node in inspection.undelegated} and told
    operators, matched = name_operators(runs, inspection)
    assert matched
    for operator in operators:
        if operator.partition is None:
            assert operator.name == operator.operator


def test_medians_over_runs_and_scopes_of_what_xnnpack_added():
    nodes = (
        Node(0, "CAST", "cast", 0),
        Node(1, "CONV_2D", "trunk/block1/relu;trunk/block1/conv", 100),
        Node(2, "RESHAPE", "roi/reshape", 0),
        Node(3, "MUL", "roi_1/mul", 0),
    )
    inspection = Inspection("ai_edge_litert", (), nodes, ((1, 2, 3),))
    names = ["CAST", "Convolution (NHWC, F32) IGEMM", "Copy (NC, X32)", "Multiply (ND)"]
    places = [(0, None), (None, 0), (None, 0), (None, 0)]
    runs = [
        Run(tuple(Event(name, *place, time) for name, place, time in zip(names, places, times, strict=True)), 99)
        for times in ([1, 100, 5, 7], [3, 300, 5, 7], [2, 120, 5, 7])
    ]
    operators, matched = name_operators(runs, inspection)
    assert matched
    assert [operator.milliseconds for operator in operators] == [0.002, 0.12, 0.005, 0.007]
    assert [operator.operator for operator in operators] == ["CAST", "CONV_2D", "RESHAPE", "MUL"]
    assert [operator.scope for operator in operators] == [NO_SCOPE, "trunk/block1", "roi", "roi"]
    found = profile_module.Profile("x", "r", 1, 3, 0.2, operators, (), True)
    parts = found.parts()
    assert parts["trunk"] == pytest.approx(0.12 / 0.134) and parts["roi"] == pytest.approx(0.012 / 0.134)
    assert parts["head"] == 0
    assert [group.name for group in found.by_scope(2)] == ["trunk/block1", "roi", NO_SCOPE]
    # A runtime whose partitions are others than the interpreter's: no guesses.
    other = Inspection("ai_edge_litert", (), nodes, ((1,), (2, 3)))
    operators, matched = name_operators(runs, other)
    assert not matched and [operator.operator for operator in operators] == ["CAST", "", "", ""]


def test_alignment_survives_merged_split_and_added_operators():
    kinds = ["PAD", "CONV_2D", "HARD_SWISH", "DEPTHWISE_CONV_2D", "RELU", "CONV_2D", "MUL", "CONCATENATION", "SUB"]
    nodes = [Node(index, kind, f"t{index}", 0) for index, kind in enumerate(kinds)]
    ran = [
        "Convolution (NHWC, F32) IGEMM",  # with the PAD inside
        "HardSwish (NC)",
        "Convolution (NHWC, F32) DWConv",  # with the RELU inside
        "Fully Connected (NC, F32) GEMM",  # 1x1
        "Multiply (ND)",
        "Something New (NC)",
        "Copy (NC, X32)",  # a CONCATENATION is several
        "Copy (NC, X32)",
        "Subtract (ND)",
    ]
    found = align([Event(name, None, 0, 1) for name in ran], nodes)
    indices = [None if node is None else node.index for node in found]
    assert indices[:6] == [1, 2, 3, 5, 6, None] and indices[8] == 8
    assert sorted(indices[6:8], key=str) == [7, None]
    assert align([], nodes) == [] and align([Event("Exp (NC)", None, 0, 1)], nodes) == [None]


def test_scopes():
    assert scope_of("trunk/block3/relu;trunk/block3/conv1") == "trunk/block3"
    assert scope_of("sub;head_2/fc/MatMul") == "head/fc"
    assert scope_of("pyramid/stem/Conv2D") == "pyramid/stem"
    assert scope_of("pyramid/stem/Conv2D;roi/x") == "roi"
    assert scope_of("Cast") == NO_SCOPE and scope_of("") == NO_SCOPE


def test_what_inputs_are_fed(scene):
    picture = input_value(InputTensor("x", (1, 8, 6, 3), "uint8"), scene)
    assert picture.shape == (1, 8, 6, 3) and picture.dtype == np.uint8 and picture.max() > 100
    shifted = input_value(InputTensor("x", (1, 8, 6, 3), "int8"), scene)
    np.testing.assert_array_equal(shifted.astype(int) + 128, picture)
    unit = input_value(InputTensor("x", (1, 8, 6, 3), "float32"), scene)
    np.testing.assert_allclose((unit + 1) * 127.5, picture, atol=1e-4)
    assert unit.dtype == np.float32
    np.testing.assert_array_equal(input_value(InputTensor("x", (2, 4), "int32"), scene), np.zeros((2, 4), np.int32))
    with pytest.raises(UserError, match=r"'x' has the shape \[-1, 8, 8, 3\], which is not fixed"):
        input_value(InputTensor("x", (-1, 8, 8, 3), "uint8"), scene)


def _words(memory, records):
    rows = []
    for tag, kind, elapsed, metadata, source in records:
        garbage = 0x70726574 << 32  # what stands in the other half of an enumeration's word
        rows.append([tag, kind | garbage, 10**6, elapsed, *[5] * (2 * memory), metadata, 0, source | garbage])
    return np.array([*np.ravel(rows), *[0] * 64], np.uint64)


def test_the_layout_of_events_is_recognised():
    records = [(1000 + place, 1 << place % 4, 7 * place, place, place % 3) for place in range(1, 9)]
    assert split_words(_words(3, records), len(records)) == records
    with pytest.raises(UserError, match="laid out in a way that is not known"):
        split_words(_words(2, records), len(records))


def test_partitions_follow_each_other_without_a_kernel_between():
    records = [(0, 1, 90, 0, 0), (1, 2, 3, 7, 0), *((2, 8, 5, index, 0) for index in (0, 1, 4, 0, 2)), (1, 2, 3, 9, 0)]
    records.append((2, 8, 5, 5, 0))
    total, events = group_events(records, ["Invoke", "GATHER", "Add (ND)"].__getitem__)
    assert total == 90
    assert [(event.node, event.partition) for event in events] == [
        (7, None), (None, 0), (None, 0), (None, 0), (None, 1), (None, 1), (9, None), (None, 2)
    ]  # fmt: skip


def test_without_litert_one_line_says_so(monkeypatch, model_path):
    monkeypatch.setattr(litert_profiler.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs ai-edge-litert, which is not installed") as error:
        profile(model_path, runs=1)
    assert "\n" not in str(error.value)


def test_a_library_without_the_profiler_and_one_that_crashes(monkeypatch, stack, tmp_path):
    model = stack.read_bytes()
    inputs = {"input": np.zeros((1, 80, 80, 256), inspect_model(model).inputs[0].dtype)}
    package = tmp_path / "ai_edge_litert"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # the child finds this one first
    with pytest.raises(UserError, match=r"has no libLiteRt\.so in it"):
        profile_runs(model, inputs, 1)
    (package / "libLiteRt.so").write_bytes(b"not a library")
    with pytest.raises(UserError, match=r"libLiteRt\.so cannot be loaded"):
        profile_runs(model, inputs, 1)
    (package / "__init__.py").write_text("")
    (tmp_path / "numpy.py").write_text("import os; os.abort()")
    with pytest.raises(UserError, match=r"was ended by signal 6 \(SIGABRT\) .*; this was written for ai-edge-litert 2"):
        profile_runs(model, inputs, 1)


def test_wrong_inputs_are_refused_by_the_child(stack):
    with pytest.raises(UserError, match=r"the input 'input' has 24 bytes; LiteRT expects"):
        profile_runs(stack.read_bytes(), {"input": np.zeros(3)}, 1)
    with pytest.raises(UserError, match="LiteRT calls an input 'input'; expected one of"):
        profile_runs(stack.read_bytes(), {"other": np.zeros(3)}, 1)
    with pytest.raises(UserError, match="0 runs"):
        profile_runs(stack.read_bytes(), {}, 0)


def test_command(model_path, scene, tmp_path, capsys):
    out = tmp_path / "out.json"
    main([str(model_path), "--runs", "2", "--top", "3", "--json", str(out)])
    printed = capsys.readouterr().out
    assert "bright.tflite" in printed and "delegated to XNNPACK" in printed and "By scope" in printed
    report = json.loads(out.read_text())
    assert f"The slowest 3 of {len(report['operators'])} operators" in printed
    assert {operator["operator"] for operator in report["operators"]} >= {"CAST"}
    assert report["operators_ms"] == pytest.approx(sum(group["milliseconds"] for group in report["by_kind"]))
    for arguments, message in (
        (["--json", str(tmp_path / "no" / "x")], "there is no folder"),
        (["--image", str(tmp_path / "x.png")], "no such image file"),
    ):
        with pytest.raises(UserError, match=message):
            main([str(model_path), *arguments])
    with pytest.raises(SystemExit):
        main([str(model_path), "--depth", "0"])
    with pytest.raises(UserError, match=r"is not a \.tflite"):
        main([str(out)])


def _counted(model, cpu, cycles):
    code = {"int8 gemm": 0.75, "C++": 0.25}
    return {
        "model": model, "cpu": cpu, "instructions": 2 * cycles, "cycles": cycles, "milliseconds": 1.0,
        "board_milliseconds": cycles / 1e6, "code": code,
    }  # fmt: skip


def test_cycles_that_were_counted_elsewhere(stack, tmp_path, capsys):
    count = tmp_path / "count.json"
    entries = [_counted(f"/elsewhere/{stack.name}", cpu, n) for cpu, n in (("a72", 122_000_000), ("a76", 62_400_000))]
    count.write_text(json.dumps([_counted("other.tflite", "a72", 5), *entries]))
    main([str(stack), "--runs", "1", "--cycles", str(count), "--json", str(tmp_path / "out.json")])
    out = capsys.readouterr().out.splitlines()
    after = out.index("On other processors, estimated, one thread")
    assert [line.split() for line in out[after + 2 : after + 4]] == [
        ["a72", "244.0", "122.0", "122"], ["a76", "124.8", "62.4", "62"]
    ]  # fmt: skip
    assert [line.rsplit(maxsplit=2)[1:] for line in out[-2:]] == [["91.5", "46.8"], ["30.5", "15.6"]]
    written = json.loads((tmp_path / "out.json").read_text())["cycles"]
    assert [entry["code"]["C++"] for entry in written] == [30_500_000, 15_600_000]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "has no count of stack.tflite; it has none at all"),
        (json.dumps([_counted("other.tflite", "a72", 5)]), "it has other.tflite"),
        ('{"a": 1}', "is no count of cycles"),
        ('[{"model": "stack.tflite"}]', "is no count of cycles"),
        ("{", "is no json"),
    ],
)
def test_a_count_that_is_none(stack, tmp_path, text, message):
    (tmp_path / "count.json").write_text(text)
    with pytest.raises(UserError, match=message):
        main([str(stack), "--cycles", str(tmp_path / "count.json")])
