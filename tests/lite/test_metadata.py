"""The members behind the flatbuffer: round trip, layout, and every way in which they can be wrong."""

import dataclasses
import hashlib
import io
import json
import zipfile

import numpy as np
import pytest

from tinydet_lite.errors import UserError
from tinydet_lite.metadata import ModelInfo, NmsSettings, append_metadata, default_threshold, parse_model, read_model

FLATBUFFER = b"\x1c\x00\x00\x00TFL3" + bytes(range(256)) * 5
LABELS = ("person", "traffic light", "Tür")
INFO = ModelInfo(
    variant="M",
    input_size=320,
    num_classes=3,
    category_ids=(1, 10, 90),
    producer="tinydet-tf 0.1.0",
    quantization="int8",
    nms=NmsSettings(max_detections=50),
)


def _with_members(members, model=FLATBUFFER):
    buffer = io.BytesIO()
    buffer.write(model)
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _with_fields(**changes):
    """A file that is right but for some fields of tinydet.json; None removes one."""
    fields = json.loads(zipfile.ZipFile(io.BytesIO(append_metadata(FLATBUFFER, INFO, LABELS))).read("tinydet.json"))
    fields.update(changes)
    fields = {key: value for key, value in fields.items() if value is not None}
    return _with_members({"labels.txt": "\n".join(LABELS), "tinydet.json": json.dumps(fields)})


def test_round_trip(tmp_path):
    path = tmp_path / "x.tflite"
    path.write_bytes(append_metadata(FLATBUFFER, INFO, LABELS))
    file = read_model(path)
    assert file.model == FLATBUFFER
    assert file.labels == LABELS
    digest = hashlib.sha256(FLATBUFFER).hexdigest()
    assert file.info == dataclasses.replace(INFO, model_bytes=len(FLATBUFFER), model_sha256=digest)


def test_layout_is_what_other_programs_read(tmp_path):
    content = append_metadata(FLATBUFFER, INFO, LABELS)
    assert content.startswith(FLATBUFFER)
    assert content[len(FLATBUFFER) :].startswith(b"PK\x03\x04")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["labels.txt", "tinydet.json"]
        assert all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())
        # Offsets count from the file's beginning, as C readers take them.
        assert archive.infolist()[0].header_offset == len(FLATBUFFER)
        assert archive.read("labels.txt").decode() == "person\ntraffic light\nTür\n"
        fields = json.loads(archive.read("tinydet.json"))
    assert fields["format_version"] == 1
    assert fields["category_ids"] == [1, 10, 90]
    assert fields["nms"] == {
        "score_threshold": 0.01,
        "iou_threshold": 0.5,
        "min_score": 0.001,
        "max_detections": 50,
    }


def test_same_arguments_give_the_same_bytes(monkeypatch):
    first = append_metadata(FLATBUFFER, INFO, LABELS)
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    assert append_metadata(FLATBUFFER, INFO, list(LABELS)) == first
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_unknown_fields_and_members_are_ignored():
    """So that a later exporter may say more under the same format."""
    content = _with_fields(training="later")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    content = _with_members({**members, "vocab.txt": "something else"})
    assert parse_model(content, "x").labels == LABELS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "x is empty"),
        (b"\x1c\x00\x00", "not a .tflite"),
        (b"PK\x03\x04 an archive", "not a .tflite"),
        (FLATBUFFER, "not a TinyDet file.*tinydet export"),
        (append_metadata(FLATBUFFER, INFO, LABELS)[:-30], "not a TinyDet file, or its end is missing"),
        (_with_members({"labels.txt": "a\n"}), "not a TinyDet file"),
        (_with_members({"labels.txt": "a\n", "tinydet.json": "{"}), "is not JSON"),
        (_with_members({"labels.txt": "a\n", "tinydet.json": b"\xff\xfe"}), "is not JSON"),
        (_with_members({"labels.txt": "a\n", "tinydet.json": "[" * 100000}), "is not JSON"),
        (_with_members({"labels.txt": "a\n", "tinydet.json": "[]"}), "not a JSON object"),
        (_with_fields(format_version=2), "has format 2.*update tinydet-lite"),
        (_with_fields(num_classes=4), "3 category_ids .3 different. for 4 classes"),
        (_with_fields(num_classes="3"), "num_classes is '3'; expected an integer"),
        (_with_fields(num_classes=True), "num_classes is True"),
        (_with_fields(num_classes=None), "num_classes is missing"),
        (_with_fields(num_classes=2, category_ids=[1, 2]), "3 labels for 2 classes"),
        (_with_fields(category_ids=[1, 1, 2]), "2 different"),
        (_with_fields(category_ids=[1, 2, "3"]), "category_ids is .*list of integers"),
        (_with_fields(input_size=0), "input_size is 0"),
        (_with_fields(input_size=10**9), "input_size is 1000000000"),
        (_with_fields(variant=""), "variant is ''"),
        (_with_fields(quantization=8), "quantization is 8; expected a text"),
        (_with_fields(postprocess="device"), "postprocess is 'device'; expected one of host, tasks"),
        (_with_fields(model_sha256="00"), "64 hex digits"),
        (_with_fields(model_sha256="0" * 64), "damaged"),
        (_with_fields(model_bytes=len(FLATBUFFER) - 1), "damaged"),
        (_with_fields(model_bytes=10**12), "damaged"),
        (_with_fields(nms=[]), "nms is .*; expected an object"),
        (_with_fields(nms={"score_threshold": float("nan")}), "score_threshold is nan"),
        (_with_fields(nms={"score_threshold": 10**400}), "score_threshold is 1000"),
        (_with_fields(nms={"score_threshold": 0.1, "iou_threshold": 1.5}), "iou_threshold is 1.5"),
    ],
)
def test_wrong_files_are_named(content, message):
    with pytest.raises(UserError, match=message) as error:
        parse_model(content, "x")
    assert len(str(error.value)) < 400
    assert "\n" not in str(error.value)


def test_labels_are_checked_when_written_and_read():
    for bad in ("", " a", "a\n", "a\nb", "a\u2028b", "\ud800"):
        with pytest.raises(UserError, match="class 1 is named"):
            append_metadata(FLATBUFFER, INFO, ("fine", bad, "fine"))
    with pytest.raises(UserError, match="2 labels for 3 classes"):
        append_metadata(FLATBUFFER, INFO, ("a", "b"))
    fields = zipfile.ZipFile(io.BytesIO(append_metadata(FLATBUFFER, INFO, LABELS))).read("tinydet.json")
    with pytest.raises(UserError, match="not UTF-8"):
        parse_model(_with_members({"labels.txt": b"\xff\n", "tinydet.json": fields}), "x")
    with pytest.raises(UserError, match="empty line"):
        parse_model(_with_members({"labels.txt": "a\n\nb\n", "tinydet.json": fields}), "x")


def test_only_a_tflite_gets_metadata():
    with pytest.raises(UserError, match=r"no \.tflite"):
        append_metadata(b"something else", INFO, LABELS)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(UserError, match="no such model file"):
        read_model(tmp_path / "x.tflite")
    with pytest.raises(UserError, match="is a folder"):
        read_model(tmp_path)


def test_every_damage_is_noticed_or_harmless():
    """Each byte of the metadata and some of the model, flipped; each length, cut."""
    content = append_metadata(FLATBUFFER, INFO, LABELS)
    rng = np.random.default_rng(0)
    whole = parse_model(content, "x")
    for length in range(0, len(content), 7):
        with pytest.raises(UserError):
            parse_model(content[:length], "x")
    positions = [*range(0, len(FLATBUFFER), 50), *range(len(FLATBUFFER), len(content))]
    noticed = 0
    for position in positions:
        damaged = bytearray(content)
        damaged[position] ^= int(rng.integers(1, 256))
        try:
            # What passes (an archive's time stamp, say) must be the same model and labels.
            assert parse_model(bytes(damaged), "x") == whole
        except UserError:
            noticed += 1
    assert noticed > 0.7 * len(positions)


@pytest.mark.parametrize("threshold", [None, 0.0, 0.42, 1.0])
def test_the_suggested_threshold(threshold):
    info = dataclasses.replace(INFO, suggested_threshold=threshold)
    read = parse_model(append_metadata(FLATBUFFER, info, LABELS), "x").info
    assert read.suggested_threshold == threshold
    assert default_threshold(read) == (0.3 if threshold is None else threshold)


def test_a_file_from_before_there_was_a_suggested_threshold():
    assert parse_model(_with_fields(suggested_threshold=None), "x").info.suggested_threshold is None


@pytest.mark.parametrize("value", [1.5, -0.1, "0.4", True, [0.4], float("nan")])
def test_a_suggested_threshold_that_is_none_is_refused(value):
    with pytest.raises(UserError, match=r"tinydet.json: suggested_threshold is .*; expected a number from 0 to 1"):
        parse_model(_with_fields(suggested_threshold=value), "x")
