"""Every file that holds a picture gives its pixels, every other one a message that names it."""

import io
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from mola_lightning.core import ConfigError, DataError
from mola_lightning.data.decode import REASONS, ImageError, decode, read_image

LOSSLESS = ["rgb.png", "rgb.bmp", "lossless.webp", "cmyk.tif"]
GREY = ["grey.png", "sixteen.png", "sixteen.tif"]


@pytest.fixture
def modes(tmp_path: Path, image_files: ModuleType) -> dict[str, Path]:
    return image_files.write_modes(tmp_path / "modes")


def colours(image_files: ModuleType) -> torch.Tensor:
    return torch.from_numpy(image_files.picture()).permute(2, 0, 1)


def test_every_mode_gives_colours_and_grey(modes: dict[str, Path], image_files: ModuleType) -> None:
    expected = colours(image_files).float()
    for name, path in modes.items():
        pixels, grey = read_image(path), read_image(path, channels=1)
        assert (pixels.shape, pixels.dtype) == ((3, 12, 20), torch.uint8), name
        assert (grey.shape, grey.dtype) == ((1, 12, 20), torch.uint8), name
        if name in LOSSLESS:
            assert (pixels - expected).abs().max() <= 1, name
        elif name in GREY:
            assert torch.equal(pixels, read_image(modes["grey.png"])), name
        elif name in ("rgb.jpg", "progressive.jpg", "palette.png", "palette.gif", "cmyk.jpg"):
            assert (pixels - expected).abs().mean() < 10, name
    assert set(read_image(modes["one_bit.png"]).unique().tolist()) == {0, 255}


def test_colour_files_are_as_they_were_saved(modes: dict[str, Path], image_files: ModuleType) -> None:
    assert torch.equal(read_image(modes["rgb.png"]), colours(image_files))


def test_transparent_pixels_are_blended_with_white(modes: dict[str, Path], image_files: ModuleType) -> None:
    part = torch.linspace(0, 255, 20).byte() / 255  # opacity of the columns
    blended = part * colours(image_files) + (1 - part) * 255
    assert (read_image(modes["alpha.png"]) - blended).abs().max() <= 1
    assert read_image(modes["alpha.png"])[:, :, 0].unique().tolist() == [255]
    grey = part * read_image(modes["grey.png"]) + (1 - part) * 255
    assert (read_image(modes["grey_alpha.png"]) - grey).abs().max() <= 1


def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 257, 32767, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", channels=1).flatten().tolist() == [0, 0, 1, 1, 127, 128, 255]


def test_colour_and_grey_jpegs_have_the_pixels_of_pillow(tmp_path: Path, image_files: ModuleType) -> None:
    for mode in ("RGB", "L"):
        Image.fromarray(image_files.picture(97, 61)).convert(mode).save(tmp_path / "a.jpg", subsampling=2)
        with Image.open(tmp_path / "a.jpg") as opened:
            expected, grey = np.array(opened.convert("RGB")), np.array(opened.convert("L"))
        assert np.array_equal(read_image(tmp_path / "a.jpg").permute(1, 2, 0).numpy(), expected)
        assert np.array_equal(read_image(tmp_path / "a.jpg", channels=1)[0].numpy(), grey)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_images_are_upright(orientation: int, ending: str, tmp_path: Path, image_files: ModuleType) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(image_files.picture(64, 32))
    image.save(tmp_path / f"a.{ending}", exif=exif)
    turns = {
        3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270, 8: Image.Transpose.ROTATE_90,
        2: Image.Transpose.FLIP_LEFT_RIGHT, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 7: Image.Transpose.TRANSVERSE,
    }  # fmt: skip
    upright = image.transpose(turns[orientation]) if orientation in turns else image
    pixels = read_image(tmp_path / f"a.{ending}").permute(1, 2, 0).float()
    assert pixels.shape == (*upright.size[::-1], 3)
    assert (pixels - torch.from_numpy(np.array(upright)).float()).abs().mean() < 3


def test_names_may_hold_anything(tmp_path: Path, image_files: ModuleType) -> None:
    for name in ("a name with spaces.png", "fußgänger Ж 犬.png", b"latin1-\xe9.png".decode(errors="surrogateescape")):
        assert read_image(image_files.write_picture(tmp_path / name)).shape == (3, 12, 20)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("reason", ["truncated", "empty", "not an image", "damaged", "missing", "not a file"])
def test_broken_files_are_named_with_the_reason(
    reason: str, channels: int, tmp_path: Path, image_files: ModuleType
) -> None:
    path = image_files.write_broken(tmp_path)[reason]
    with pytest.raises(ImageError, match=f"{path.name}: {reason}.*on_bad_image=skip") as caught:
        read_image(path, channels)
    assert caught.value.reason == reason
    assert reason in REASONS
    assert isinstance(caught.value, DataError)


def test_numbers_without_a_range_are_refused(tmp_path: Path, image_files: ModuleType) -> None:
    with pytest.raises(ImageError, match=r"float.tif: unsupported pixels \(floating point"):
        read_image(image_files.write_broken(tmp_path)["unsupported pixels"])
    Image.fromarray(np.array([[-5, 70000]], dtype=np.int32)).save(tmp_path / "wide.tif")
    with pytest.raises(ImageError, match="wide.tif: unsupported pixels .*from -5 to 70000"):
        read_image(tmp_path / "wide.tif")


def test_a_decompression_bomb_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image_files: ModuleType
) -> None:
    path = image_files.write_picture(tmp_path / "large.jpg", 64, 48)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="large.jpg: too large"):
        read_image(path)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("ending", ["jpg", "png", "gif", "tif", "webp", "bmp"])
def test_no_cut_and_no_flipped_byte_gets_past_as_another_error(
    ending: str, tmp_path: Path, image_files: ModuleType
) -> None:
    """Whatever the damage: an image, or an error that says which file."""
    rng = np.random.default_rng(0)
    whole = image_files.write_picture(tmp_path / f"a.{ending}", 32, 24).read_bytes()
    path = tmp_path / f"b.{ending}"
    refused = 0
    for trial in range(60):
        content = bytearray(whole[: int(rng.integers(1, len(whole)))] if trial % 2 else whole)
        for place in rng.integers(0, len(content), 3):
            content[place] = int(rng.integers(256))
        path.write_bytes(content)
        message = path.name
        try:
            decode(path, 3)
        except ImageError as error:
            message, refused = str(error), refused + 1
        assert path.name in message
    assert refused


def test_a_half_read_jpeg_is_never_taken_for_whole(tmp_path: Path, image_files: ModuleType) -> None:
    whole = image_files.write_picture(tmp_path / "a.jpg", 64, 48).read_bytes()
    start = whole.index(b"\xff\xda") + 20
    for end in range(start, len(whole) - 2, 50):
        (tmp_path / "a.jpg").write_bytes(whole[:end])
        with pytest.raises(ImageError, match="truncated"):
            read_image(tmp_path / "a.jpg")


def test_other_numbers_of_channels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="channels must be one of 1, 3, got 4"):
        read_image(tmp_path / "a.png", channels=4)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_broken_orientation_tag_does_not_cost_the_image(tmp_path: Path, image_files: ModuleType) -> None:
    buffer = io.BytesIO()
    Image.fromarray(image_files.picture()).save(buffer, "jpeg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    assert read_image(tmp_path / "a.jpg").shape == (3, 12, 20)
