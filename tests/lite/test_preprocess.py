"""Every kind of picture becomes the right upright RGB pixels, or one clear error."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFile

from tinydet_lite import preprocess
from tinydet_lite.errors import UserError
from tinydet_lite.preprocess import BACKGROUND_RGB, as_rgb_array, load_image, load_resized, resize_to


@pytest.fixture
def upright():
    """[6, 9, 3] in which every pixel differs from every other."""
    return np.random.default_rng(0).permutation(256)[: 6 * 9].astype(np.uint8).repeat(3).reshape(6, 9, 3)


# How a picture is stored under each EXIF orientation so that it shows upright (the inverse of TIFF 6.0's
# table).
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, upright, orientation):
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(as_rgb_array(tmp_path / "x.png"), upright)
    with Image.open(tmp_path / "x.png") as opened:
        np.testing.assert_array_equal(as_rgb_array(opened), upright)
    # Applied once: loading what load_image gave must not turn it again.
    np.testing.assert_array_equal(as_rgb_array(load_image(tmp_path / "x.png")), upright)


def test_jpeg_is_decoded_at_full_size(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.jpg", quality=95)
    with Image.open(tmp_path / "x.jpg") as image:
        expected = np.asarray(image)
    np.testing.assert_array_equal(as_rgb_array(tmp_path / "x.jpg"), expected)


def smooth(height, width):
    """[height, width, 3], as smooth as a photograph: noise of a twelfth of its size."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def small_is_large(monkeypatch):
    """Pictures of a few hundred pixels are decoded at a fraction, as those of megapixels are."""
    monkeypatch.setattr(preprocess, "_LARGE", 1)


def test_a_jpeg_below_a_megapixel_and_a_half_is_decoded_whole(tmp_path):
    for width, height, whole in ((1500, 999, True), (1500, 1000, False)):
        smooth(height, width).save(tmp_path / "x.jpg", quality=95)
        expected = resize_to(as_rgb_array(tmp_path / "x.jpg"), 64)
        assert np.array_equal(load_resized(tmp_path / "x.jpg", 64)[0], expected) == whole


# Of a side of 64: 130 pixels have no half that is 128; 256 have; an eighth of 1,030 is 129, rounded up, of 1,032 not.
@pytest.mark.parametrize(
    ("width", "height", "fraction"), [(1300, 130, 1), (600, 256, 2), (1030, 2000, 8), (8200, 600, 4), (1032, 1032, 8)]
)
def test_a_large_jpeg_is_decoded_at_a_fraction(small_is_large, tmp_path, monkeypatch, width, height, fraction):
    smooth(height, width).save(tmp_path / "x.jpg", quality=95)
    expected = resize_to(as_rgb_array(tmp_path / "x.jpg"), 64).astype(int)
    decoded = []
    monkeypatch.setattr(Image.Image, "convert", lambda image, _mode: decoded.append(image.size) or image)
    pixels, whole = load_resized(tmp_path / "x.jpg", 64)
    assert decoded == [(-(-width // fraction), -(-height // fraction))]
    assert whole == (width, height)
    assert pixels.shape == (64, 64, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels - expected).mean() < 1.0
    # Nor is anything moved: an edge would be, by half a pixel, if what is rounded up counted as picture.
    assert np.abs(pixels - expected)[:, -4:].mean() < 1.5


@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_fraction_lies_as_the_whole_does(small_is_large, tmp_path, orientation, turned):
    exif = Image.Exif()
    exif[0x0112] = orientation
    smooth(300, 500).save(tmp_path / "x.jpg", quality=95, exif=exif)
    expected = load_image(tmp_path / "x.jpg", turned=turned)
    pixels, whole = load_resized(tmp_path / "x.jpg", 64, turned=turned)
    assert whole == expected.size == ((300, 500) if turned and orientation > 4 else (500, 300))
    assert np.abs(pixels - resize_to(np.asarray(expected), 64).astype(int)).mean() < 1.0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_is_rounded_up_moves_no_edge(small_is_large, tmp_path, orientation):
    """An eighth of 1,025 pixels are 128 and an eighth of one, in 129."""
    x, y = np.meshgrid(np.linspace(0, 255, 1025), np.linspace(0, 255, 1033))
    exif = Image.Exif()
    exif[0x0112] = orientation
    ramps = np.stack([x, y, np.full_like(x, 128)], -1).astype(np.uint8)
    Image.fromarray(ramps).save(tmp_path / "x.jpg", quality=95, subsampling=0, exif=exif)
    difference = load_resized(tmp_path / "x.jpg", 64)[0] - resize_to(as_rgb_array(tmp_path / "x.jpg"), 64).astype(int)
    # A step of a ramp is 4 levels a pixel, and the end would be moved by 0.4 pixels.
    for end in (difference[:4], difference[-4:], difference[:, :4], difference[:, -4:]):
        assert np.abs(end.mean(axis=(0, 1))).max() < 0.7


@pytest.mark.parametrize("name", ["x.png", "x.bmp", "x.webp"])
def test_other_formats_are_decoded_whole(small_is_large, tmp_path, name):
    smooth(300, 500).save(tmp_path / name)
    pixels, whole = load_resized(tmp_path / name, 64)
    assert whole == (500, 300)
    np.testing.assert_array_equal(pixels, resize_to(as_rgb_array(tmp_path / name), 64))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_fractions_of_grey_and_printed_jpegs(small_is_large, tmp_path, mode):
    smooth(300, 500).convert(mode).save(tmp_path / "x.jpg", quality=95)
    pixels, whole = load_resized(tmp_path / "x.jpg", 64)
    assert whole == (500, 300)
    assert np.abs(pixels - resize_to(as_rgb_array(tmp_path / "x.jpg"), 64).astype(int)).mean() < 1.0


def test_a_large_jpeg_that_was_cut_short(small_is_large, tmp_path):
    smooth(300, 500).save(tmp_path / "x.jpg", quality=95)
    content = (tmp_path / "x.jpg").read_bytes()
    (tmp_path / "x.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"x\.jpg does not decode"):
        load_resized(tmp_path / "x.jpg", 64)


def _read_back(image, name, tmp_path, **options):
    image.save(tmp_path / name, **options)
    loaded = load_image(tmp_path / name)
    assert loaded.mode == "RGB"
    np.testing.assert_array_equal(as_rgb_array(tmp_path / name), np.asarray(loaded))
    return np.asarray(loaded)


def test_grey_and_bilevel(tmp_path):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels = _read_back(Image.fromarray(ramp), "x.png", tmp_path)
    np.testing.assert_array_equal(pixels, np.stack([ramp] * 3, axis=-1))
    pixels = _read_back(Image.fromarray(ramp > 100), "b.png", tmp_path)
    np.testing.assert_array_equal(pixels[..., 0], np.where(ramp > 100, 255, 0))


@pytest.mark.parametrize("name", ["x.png", "x.tiff"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, name):
    ramp = np.array([[0, 128, 129, 257, 1000, 32768, 65406, 65407, 65535]], np.uint16)
    pixels = _read_back(Image.fromarray(ramp), name, tmp_path)
    np.testing.assert_array_equal(pixels[0, :, 0], np.round(ramp[0] / 257))
    assert (pixels == pixels[..., :1]).all()


def test_16_bit_grey_with_one_clear_value(tmp_path):
    image = Image.fromarray(np.array([[257, 65535, 0]], np.uint16))
    pixels = _read_back(image, "x.png", tmp_path, transparency=65535)
    np.testing.assert_array_equal(pixels, [[[1] * 3, BACKGROUND_RGB, [0] * 3]])


def test_mode_i_and_f():
    """Older Pillows give a 16-bit PNG as I. Beyond 16 bits, and for floats, white is anyone's guess."""
    pixels = as_rgb_array(Image.fromarray(np.array([[0, 65535]], np.int32)))
    np.testing.assert_array_equal(pixels, [[[0, 0, 0], [255, 255, 255]]])
    with pytest.raises(UserError, match="from 0 to 65536; expected 16 bits"):
        as_rgb_array(Image.fromarray(np.array([[0, 65536]], np.int32)))
    with pytest.raises(UserError, match="floating-point"):
        as_rgb_array(Image.fromarray(np.array([[0.5]], np.float32)))


def test_palette(tmp_path):
    image = Image.frombytes("P", (3, 1), bytes([0, 1, 2]))
    image.putpalette([255, 0, 0, 0, 255, 0, 10, 20, 30])
    expected = [[[255, 0, 0], [0, 255, 0], [10, 20, 30]]]
    np.testing.assert_array_equal(_read_back(image, "x.png", tmp_path), expected)
    np.testing.assert_array_equal(_read_back(image, "x.gif", tmp_path), expected)
    expected[0][1] = list(BACKGROUND_RGB)
    np.testing.assert_array_equal(_read_back(image, "t.png", tmp_path, transparency=1), expected)
    np.testing.assert_array_equal(_read_back(image, "t.gif", tmp_path, transparency=1), expected)


def test_palette_with_a_half_clear_entry(tmp_path):
    image = Image.frombytes("P", (2, 1), bytes([0, 1]))
    image.putpalette([255, 0, 0, 0, 0, 0])
    pixels = _read_back(image, "x.png", tmp_path, transparency=bytes([255, 51]))
    # A fifth of black on the background's 128.
    np.testing.assert_array_equal(pixels, [[[255, 0, 0], [102, 102, 102]]])


def test_one_colour_declared_clear(tmp_path):
    grey = Image.fromarray(np.array([[9, 200]], np.uint8))
    pixels = _read_back(grey, "l.png", tmp_path, transparency=9)
    np.testing.assert_array_equal(pixels, [[BACKGROUND_RGB, (200, 200, 200)]])
    rgb = Image.fromarray(np.array([[[1, 2, 3], [3, 2, 1]]], np.uint8))
    pixels = _read_back(rgb, "rgb.png", tmp_path, transparency=(1, 2, 3))
    np.testing.assert_array_equal(pixels, [[BACKGROUND_RGB, (3, 2, 1)]])


def test_alpha_is_composited(tmp_path):
    rgba = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 51]]], np.uint8)
    expected = [[[255, 0, 0], BACKGROUND_RGB, [102, 102, 102]]]
    np.testing.assert_array_equal(_read_back(Image.fromarray(rgba), "x.png", tmp_path), expected)
    np.testing.assert_array_equal(
        _read_back(Image.fromarray(rgba), "x.webp", tmp_path, lossless=True, exact=True), expected
    )
    la = Image.fromarray(np.array([[[250, 255], [250, 0]]], np.uint8), "LA")
    np.testing.assert_array_equal(_read_back(la, "la.png", tmp_path), [[[250] * 3, BACKGROUND_RGB]])
    for premultiplied in (Image.fromarray(rgba).convert("RGBa"), la.convert("La")):
        last_clear = np.asarray(as_rgb_array(premultiplied))[0, 1]
        np.testing.assert_array_equal(last_clear, BACKGROUND_RGB)


def test_cmyk(tmp_path):
    cmyk = np.zeros((16, 48, 4), np.uint8)
    cmyk[:, :16] = (0, 255, 255, 0)  # magenta and yellow ink: red
    cmyk[:, 16:32] = (0, 0, 0, 255)  # black ink
    image = Image.fromarray(cmyk, "CMYK")
    for name in ("x.jpg", "x.tiff"):
        options = {"quality": 95} if name == "x.jpg" else {}
        pixels = _read_back(image, name, tmp_path, **options).astype(int)
        for column, colour in ((8, (255, 0, 0)), (24, (0, 0, 0)), (40, (255, 255, 255))):
            # Measured: 0; JPEG decoders may round differently.
            assert np.abs(pixels[8, column] - colour).max() <= 2, (name, column)


def test_other_modes():
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    for mode in ("YCbCr", "HSV"):
        assert np.abs(as_rgb_array(red.convert(mode)).astype(int) - (255, 0, 0)).max() <= 2  # measured: 1


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(as_rgb_array(tmp_path / "x.gif")[0, 0], (255, 0, 0))


def _encoded(extension, size=(40, 60)):
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, extension)
    return buffer.getvalue()


@pytest.mark.parametrize("extension", ["JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF"])
def test_truncated_images_are_refused(tmp_path, extension):
    whole = _encoded(extension)
    path = tmp_path / f"x.{extension.lower()}"
    path.write_bytes(whole)
    assert load_image(path).size == (60, 40)
    for share in (0.0, 0.02, 0.3, 0.7):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(UserError, match=path.name):
            load_image(path)
        # Opened by the caller: the header may be whole, the pixels are not.
        try:
            image = Image.open(path)
        except OSError:
            continue
        with image, pytest.raises(UserError, match=path.name):
            as_rgb_array(image)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("extension", ["JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF"])
def test_damaged_images_never_raise_anything_else(tmp_path, extension):
    whole = np.frombuffer(_encoded(extension, (8, 8)), np.uint8)
    rng = np.random.default_rng(0)
    path = tmp_path / "x"
    refused = 0
    for _ in range(150):
        damaged = whole.copy()
        damaged[rng.integers(0, min(len(whole), 200), 3)] = rng.integers(0, 256, 3)
        path.write_bytes(damaged.tobytes())
        try:
            assert load_image(path).mode == "RGB"
        except UserError:
            refused += 1
    assert refused > 0


def test_files_that_are_no_image(tmp_path):
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "drawing.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    for name in ("text.jpg", "empty.png", "drawing.eps"):
        with pytest.raises(UserError, match=f"{name} is not an image; expected one of JPEG"):
            load_image(tmp_path / name)
    with pytest.raises(UserError, match="no such image file"):
        load_image(tmp_path / "missing.jpg")
    with pytest.raises(UserError, match="is a folder"):
        load_image(tmp_path)


def test_decompression_bomb(tmp_path, monkeypatch):
    Image.new("L", (100, 50)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2400)
    with pytest.raises(UserError, match=r"x\.png has more than"):
        load_image(tmp_path / "x.png")


def test_truncated_is_refused_by_default():
    """Some program might set Pillow's switch; ours must not."""
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            np.zeros((4, 4, 3), np.float32),
            r"shape \[4, 4, 3\] and dtype float32 came.*values of 0..1 convert",
        ),
        (np.zeros((4, 4, 3), np.int64), "dtype int64 came"),
        (np.zeros((4, 4), np.uint8), "for a grey image"),
        (np.zeros((1, 4, 4, 3), np.uint8), "one image at a time"),
        (np.zeros((4, 4, 4), np.uint8), "alpha"),
        (np.zeros((3, 4, 4), np.uint8), r"expected uint8 RGB \[H, W, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), "at least one pixel"),
        ([[1, 2]], "type builtins.list came"),
        (None, "type builtins.NoneType came"),
    ],
)
def test_wrong_kinds_of_image_are_named(image, message):
    with pytest.raises(UserError, match=message):
        as_rgb_array(image)


def test_arrays_pass_unchanged():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(as_rgb_array(image), image)
    swapped = as_rgb_array(image[..., ::-1])
    np.testing.assert_array_equal(swapped, image[..., ::-1])
    assert swapped.flags.c_contiguous


def test_resize_stretches_and_antialiases():
    # A checkerboard of single pixels, eight times smaller: grey if antialiased, black or white if sampled.
    board = np.indices((128, 256)).sum(axis=0) % 2 * np.uint8(255)
    small = resize_to(np.stack([board] * 3, axis=-1).astype(np.uint8), 16)
    assert small.shape == (16, 16, 3)
    assert small.dtype == np.uint8
    assert np.abs(small.astype(int) - 127).max() <= 2  # measured: 1
    # Stretched: the left half of a wide picture becomes the left half of a square one.
    wide = np.zeros((10, 100, 3), np.uint8)
    wide[:, :50] = 200
    half = resize_to(wide, 32)
    assert (half[:, :14] == 200).all()
    assert (half[:, 18:] == 0).all()


def test_resize_gives_the_same_array_where_nothing_is_to_do():
    image = np.zeros((8, 8, 3), np.uint8)
    assert resize_to(image, 8) is image
    assert resize_to(np.full((1, 1, 3), 7, np.uint8), 4).tolist() == [[[7] * 3] * 4] * 4
