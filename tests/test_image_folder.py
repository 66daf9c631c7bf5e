"""Folders of pictures: every mode upright and ungarbled, every damaged file named."""

from __future__ import annotations

import numpy as np
import pytest

from pyinception import data
from pyinception.data import DatasetError
from pyinception.data.image_folder import ImageFolder, in_test_split
from pyinception.data.picture import MAX_PIXELS, PictureError, read_picture

Image = pytest.importorskip("PIL.Image", reason="image files need Pillow (extra train)")

COLOUR = (200, 60, 120)


def quadrants(height: int = 48, width: int = 64) -> np.ndarray:
    """Red, green / blue, white: tells every turn and flip from the others."""
    pixels = np.zeros((height, width, 3), np.uint8)
    h, w = height // 2, width // 2
    pixels[:h, :w, 0] = pixels[:h, w:, 1] = pixels[h:, :w, 2] = 255
    pixels[h:, w:] = 255
    return pixels


def flat(mode: str = "RGB") -> Image.Image:
    return Image.new("RGB", (40, 40), COLOUR).convert(mode)


def corner_colours(pixels: np.ndarray) -> np.ndarray:
    n = len(pixels) // 4
    return np.stack([pixels[n, n], pixels[n, -n], pixels[-n, n], pixels[-n, -n]])


def write_tree(root, classes=("cat", "dog"), splits=("train", "test"), count=2):
    for split in splits:
        for label, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (20, 20), (40 + 100 * label, number, 0))
                image.save(root / split / name / f"{number}.png")
    return root


# --- modes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("RGB", "a.png"),
        ("RGB", "a.jpg"),
        ("RGB", "a.bmp"),
        ("RGB", "a.tif"),
        ("RGB", "a.ppm"),
        ("CMYK", "a.jpg"),
        ("CMYK", "a.tif"),
        ("YCbCr", "a.jpg"),
        ("YCbCr", "a.tif"),
        ("P", "a.png"),
        ("P", "a.gif"),
        ("RGBA", "a.png"),
        ("RGBA", "a.webp"),
    ],
)
def test_a_colour_stays_what_it_was(tmp_path, mode: str, name: str) -> None:
    flat(mode).save(tmp_path / name)
    pixels = read_picture(tmp_path / name, (8, 8)).astype(int)
    tolerance = 26 if mode == "P" else 6  # Pillow's web palette has steps of 51
    assert pixels.shape == (8, 8, 3)
    assert np.abs(pixels - COLOUR).max() <= tolerance


def test_grey_and_sixteen_bits(tmp_path) -> None:
    levels = np.full((20, 20), 0.6)
    Image.fromarray((levels * 65535).astype(np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray((levels * 65535).astype(np.uint16)).save(tmp_path / "deep.tif")
    Image.fromarray((levels * 65535).astype(np.int32)).save(tmp_path / "i.tif")
    Image.fromarray((levels * 255).astype(np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray((levels * 255).astype(np.uint8)).save(tmp_path / "grey.jpg")
    for path in sorted(tmp_path.iterdir()):
        np.testing.assert_array_equal(read_picture(path, (4, 4)), 153, err_msg=path.name)
    Image.fromarray(np.arange(400, dtype=np.int32).reshape(20, 20) * 1000).save(tmp_path / "w.tif")
    with pytest.raises(PictureError, match=r"32-bit levels \[0, 399000\]"):
        read_picture(tmp_path / "w.tif", (4, 4))
    Image.fromarray(levels.astype(np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(PictureError, match="mode F has no conversion"):
        read_picture(tmp_path / "f.tif", (4, 4))
    Image.fromarray(np.eye(20) > 2).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "bits.png", (4, 4)), 0)


def test_transparency_shows_the_background(tmp_path) -> None:
    hidden = Image.new("RGBA", (20, 20), (10, 250, 10, 0))
    hidden.save(tmp_path / "rgba.png")
    Image.new("LA", (20, 20), (10, 0)).save(tmp_path / "la.png")
    palette = flat().quantize(4)
    palette.save(tmp_path / "p.png", transparency=palette.getpixel((0, 0)))
    Image.new("L", (20, 20), 7).save(tmp_path / "l.png", transparency=7)
    for path in sorted(tmp_path.iterdir()):
        np.testing.assert_array_equal(read_picture(path, (4, 4)), 255, err_msg=path.name)
        np.testing.assert_array_equal(read_picture(path, (4, 4), background=9), 9)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_exif_orientation_is_undone(tmp_path, orientation: int, name: str) -> None:
    # CIPA DC-008 says where the stored row 0 and column 0 belong in the upright picture.
    row, column = {
        1: ("top", "left"),
        2: ("top", "right"),
        3: ("bottom", "right"),
        4: ("bottom", "left"),
        5: ("left", "top"),
        6: ("right", "top"),
        7: ("right", "bottom"),
        8: ("left", "bottom"),
    }[orientation]
    upright = quadrants(64, 64)
    stored = upright if row in ("top", "bottom") else upright.transpose(1, 0, 2)
    stored = stored[::-1] if row in ("bottom", "right") else stored
    stored = stored[:, ::-1] if column in ("bottom", "right") else stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / name, exif=exif)
    pixels = read_picture(tmp_path / name, (32, 32)).astype(int)
    assert np.abs(corner_colours(pixels) - corner_colours(upright[::2, ::2])).max() <= 8


def test_damaged_exif_does_not_cost_the_picture(tmp_path) -> None:
    Image.fromarray(quadrants()).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    pixels = read_picture(tmp_path / "a.jpg", (24, 32)).astype(int)
    assert np.abs(corner_colours(pixels) - corner_colours(quadrants(24, 32))).max() <= 8


def test_the_crop_is_central_and_keeps_the_aspect(tmp_path) -> None:
    wide = np.zeros((40, 120, 3), np.uint8)
    wide[:, 40:80] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    # Halving blends the pixels on both sides of the cut.
    np.testing.assert_array_equal(read_picture(tmp_path / "wide.png", (20, 20))[:, 1:-1], 255)
    np.testing.assert_array_equal(read_picture(tmp_path / "wide.png", (40, 40)), 255)
    Image.fromarray(wide.transpose(1, 0, 2)).save(tmp_path / "tall.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "tall.png", (20, 20))[1:-1], 255)
    assert read_picture(tmp_path / "wide.png", (10, 30)).shape == (10, 30, 3)


# --- damage ----------------------------------------------------------------------------------


def test_content_decides_not_the_name(tmp_path) -> None:
    Image.fromarray(quadrants()).save(tmp_path / "really.png")
    (tmp_path / "really.png").rename(tmp_path / "named.JPEG")
    pixels = read_picture(tmp_path / "named.JPEG", (24, 32))
    np.testing.assert_array_equal(corner_colours(pixels), corner_colours(quadrants(24, 32)))


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "gif", "webp", "ppm"])
def test_a_truncated_file_is_refused_or_whole(tmp_path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise).save(path)
    whole, pixels = path.read_bytes(), read_picture(path, (32, 32))
    refused = 0
    for percent in range(100):
        path.write_bytes(whole[: len(whole) * percent // 100])
        try:
            # Only a trailing marker may be missing, never a pixel.
            np.testing.assert_array_equal(read_picture(path, (32, 32)), pixels)
        except PictureError as error:
            assert str(error)
            refused += 1
    assert refused >= 98


def test_mutated_bytes_never_escape_as_another_exception(tmp_path) -> None:
    generator = np.random.default_rng(1)
    outcomes = set()
    for suffix in ("jpg", "png", "gif"):
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(quadrants(16, 16)).save(path)
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(120):
            broken = whole.copy()
            places = generator.integers(0, len(broken), 4)
            broken[places] = generator.integers(0, 256, 4)
            path.write_bytes(broken.tobytes())
            try:
                assert read_picture(path, (8, 8), max_pixels=10**6).shape == (8, 8, 3)
                outcomes.add("read")
            except PictureError:
                outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_bombs_and_strangers_are_refused(tmp_path) -> None:
    huge = tmp_path / "huge.pgm"
    huge.write_bytes(b"P5 60000 60000 255\n" + bytes(100))
    with pytest.raises(PictureError, match="bomb"):
        read_picture(huge, (8, 8))
    large = tmp_path / "large.pgm"
    large.write_bytes(b"P5 10000 9000 255\n" + bytes(100))
    with pytest.raises(PictureError, match=f"90,000,000 pixels, the limit is {MAX_PIXELS:,}"):
        read_picture(large, (8, 8))
    (tmp_path / "text.jpg").write_text("no picture at all")
    with pytest.raises(PictureError, match=r"not an image in one of JPEG, .*b'no pictu'"):
        read_picture(tmp_path / "text.jpg", (8, 8))
    (tmp_path / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(PictureError, match="not an image"):
        read_picture(tmp_path / "script.png", (8, 8))
    (tmp_path / "void.png").write_bytes(b"")
    with pytest.raises(PictureError, match="empty file"):
        read_picture(tmp_path / "void.png", (8, 8))


# --- folders ---------------------------------------------------------------------------------


def test_train_and_test_folders(tmp_path) -> None:
    root = write_tree(tmp_path)
    (root / "train" / "cat" / ".hidden").write_text("")
    (root / "train" / "cat" / "notes.txt").write_text("")
    train, test = (data.load("image_folder", split, root=root) for split in ("train", "test"))
    assert train.classes == test.classes == ["cat", "dog"]
    assert train.labels.tolist() == [0, 0, 1, 1] and train.shape == (32, 32, 3)
    assert [path.name for path in train.ignored] == ["notes.txt"]
    np.testing.assert_allclose(train.images([0, 3])[:, 5, 5] * 255, [[40, 0, 0], [140, 1, 0]])


def test_uncached_pictures_are_the_same_and_checked_again(tmp_path) -> None:
    root = write_tree(tmp_path)
    calls = []
    lazy = ImageFolder(root, cache_bytes=0, progress=lambda *done: calls.append(done))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    everything = np.arange(4)
    assert lazy.images(everything).tobytes() == ImageFolder(root).images(everything).tobytes()
    lazy.paths[2].write_bytes(b"gone")
    with pytest.raises(DatasetError, match=r"dog/0.png: not an image"):
        lazy.images([2])


def test_split_by_hash(tmp_path) -> None:
    write_tree(tmp_path, splits=(".",), count=30)
    train, test = ImageFolder(tmp_path), ImageFolder(tmp_path, "test")
    assert len(train) + len(test) == 60 and 4 <= len(test) <= 22
    assert not set(train.paths) & set(test.paths)
    assert all(in_test_split(path.parent.name, path.name) for path in test.paths)
    assert in_test_split("cat", "2.png") == ((tmp_path / "cat" / "2.png") in test.paths)


def test_faulty_files_are_listed_with_reasons(tmp_path) -> None:
    root = write_tree(tmp_path, count=15)
    for number in range(12):
        path = root / "train" / "dog" / f"{number}.png"
        path.write_bytes(path.read_bytes()[:60] if number % 2 else b"hello")
    with pytest.raises(DatasetError) as caught:
        ImageFolder(root)
    text = str(caught.value)
    assert "12 of 30 files in" in text and text.count("dog/") == 10 and "and 2 more" in text
    assert "train/dog/0.png: not an image" in text and "train/dog/1.png: " in text


def test_empty_and_unequal_folders(tmp_path) -> None:
    with pytest.raises(DatasetError, match="is not a folder"):
        ImageFolder(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="is empty, expected one sub-folder per class"):
        ImageFolder(tmp_path)
    root = write_tree(tmp_path)
    (root / "train" / "eel").mkdir()
    (root / "train" / "eel" / "a.heic").write_text("")
    with pytest.raises(DatasetError, match=r"class folder .*eel holds no image \(1 other files"):
        ImageFolder(root)
    (root / "train" / "eel" / "b.png").write_bytes((root / "train/dog/0.png").read_bytes())
    with pytest.raises(DatasetError, match=r"test lacks the classes \['eel'\]"):
        ImageFolder(root, "test")
    for name in ("cat", "dog"):
        for path in (root / "test" / name).iterdir():
            path.unlink()
        (root / "test" / name).rmdir()
    (root / "test").rmdir()
    with pytest.raises(DatasetError, match="has one of train and test"):
        ImageFolder(root)


def test_a_part_of_a_set_has_every_class(tmp_path):
    """Folders come class by class: the first pictures would all be cats."""
    from pyinception.train.recipe import resolve
    from pyinception.train.splits import fingerprint, load_split

    root = write_tree(tmp_path, count=6)
    (root / "train" / "cat" / "1.png").write_bytes(b"no picture")
    given = {"data": str(root), "count": 4, "test_count": 3, "bad_images": "skip"}
    cut = load_split(resolve(given), "train")
    assert [cut.where(n) for n in range(4)] == [  # type: ignore[attr-defined]
        *("train/cat/0.png", "train/cat/3.png"),
        *("train/dog/0.png", "train/dog/3.png"),
    ]
    assert cut.labels.tolist() == [0, 0, 1, 1]
    bytes_of = np.rint(cut.images([0, 1, 2, 3])[:, 0, 0, :2] * 255).astype(int)
    assert bytes_of.tolist() == [[40, 0], [40, 3], [140, 0], [140, 3]]
    assert load_split(resolve(given), "test").labels.tolist() == [0, 0, 1]
    assert fingerprint(cut) == fingerprint(load_split(resolve(given), "train"))


def test_a_part_has_every_class_in_any_order(tmp_path):
    """Taken in turns a stride over the files would meet one class again and again."""

    class Turns(data.Pictures):
        name = "turns"

        def _where(self, source: int) -> str:
            return str(source)

    labels = np.arange(12, dtype=np.int64) % 3
    pictures = Turns(tmp_path, "train", (4, 4), labels, ["a", "b", "c"])
    pictures.thin(4)
    assert np.bincount(pictures.labels).tolist() == [2, 1, 1]
    kept = [int(pictures.where(n)) for n in range(4)]
    assert kept == sorted(kept) and [n % 3 for n in kept] == pictures.labels.tolist()
    with pytest.raises(DatasetError, match=r"turns: count is 5, expected 1 ... 4"):
        pictures.thin(5)
