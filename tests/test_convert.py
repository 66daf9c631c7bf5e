"""Weights from elsewhere: names, orders, damage. Against torch: tests/test_oracles_family.py."""

import struct
import tracemalloc

import numpy as np
import pytest

import pyinception as pyi
from pyinception import convert, models
from pyinception.convert import caffe, slim, torchvision


# ---- protobuf, written -------------------------------------------------------------------------
def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def blob(array: np.ndarray, style: str = "shape") -> bytes:
    if style == "shape":
        extents = field(7, field(1, b"".join(varint(n) for n in array.shape)))
        return extents + field(5, array.astype("<f4").tobytes())
    shape = (1,) * (4 - array.ndim) + array.shape  # as Caffe before blobs had any rank
    legacy = b"".join(varint((i + 1) << 3) + varint(n) for i, n in enumerate(shape))
    if style == "legacy":
        return legacy + field(5, array.astype("<f4").tobytes())
    if style == "double":
        return legacy + field(8, array.astype("<f8").tobytes())
    loose = (varint(5 << 3 | 5) + struct.pack("<f", v) for v in array.ravel().tolist())
    return legacy + b"".join(loose)  # floats one by one, not packed


def layer(name: str, blobs: list[np.ndarray], *, old: bool, style: str) -> bytes:
    name_field, blob_field = (4, 6) if old else (1, 7)
    body = field(name_field, name.encode())
    body += b"".join(field(blob_field, blob(b, style)) for b in blobs)
    body += varint(9 << 3) + varint(5)  # fields that nobody asked for are passed over
    return field(2 if old else 100, body)


def caffe_blobs(net: pyi.models.GoogLeNet) -> dict[str, list[np.ndarray]]:
    """What Caffe would have saved of this network."""
    state = net.state_dict()
    found = {}
    for theirs, ours in caffe._NAMES.items():
        if f"{ours}.weight" not in state:
            continue
        w = state[f"{ours}.weight"]
        if w.ndim == 4:
            w = w.transpose(0, 3, 1, 2)
            w = w[:, ::-1] if ours == "conv1" else w
        elif ours.endswith("fc1"):
            w = w.reshape(-1, 4, 4, 128).transpose(0, 3, 1, 2).reshape(len(w), -1)
        found[theirs] = [np.ascontiguousarray(w), state[f"{ours}.bias"]]
    return found


def caffemodel(net, *, old: bool = False, style: str = "shape") -> bytes:
    rows = caffe_blobs(net).items()
    return field(1, b"GoogleNet") + b"".join(
        layer(name, blobs, old=old, style=style) for name, blobs in rows
    )


@pytest.fixture(scope="module")
def googlenet() -> pyi.models.GoogLeNet:
    return models.googlenet(num_classes=3, seed=4)


@pytest.mark.parametrize(("old", "style"), [(False, "shape"), (True, "legacy"), (True, "double")])
def test_caffemodel(googlenet, tmp_path, old: bool, style: str) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(caffemodel(googlenet, old=old, style=style))
    found = convert.convert(path)
    assert found.model == "googlenet" and found.preprocessing.mean == (123, 117, 104)
    for name, array in googlenet.state_dict().items():
        np.testing.assert_array_equal(found.net.state_dict()[name], array, err_msg=name)


def test_floats_that_are_not_packed() -> None:
    array = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    content = layer("fc", [array], old=True, style="loose")
    np.testing.assert_array_equal(caffe.read_layers(memoryview(content))["fc"][0][0, 0], array)


def test_a_deployed_net_has_no_heads(tmp_path) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(caffemodel(models.googlenet(num_classes=5, aux=False)))
    assert convert.convert(path).net.count_parameters() == models.googlenet(
        num_classes=5, aux=False
    ).count_parameters()  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda b: b[: len(b) // 2], "truncated"),
        (lambda b: b + b"\x07", "wire type 7|damaged"),
        (
            lambda b: b + layer("conv9", [np.zeros(2)] * 2, old=False, style="shape"),
            "no layer 'con",
        ),
        (lambda b: b + field(100, field(1, b"fc")[:-1] + b"\xff" * 11), "damaged|truncated"),
        (lambda b: field(1, b"x"), "116 arrays are missing, such as conv1.bias"),
        (lambda b: b"", "empty"),
    ],
)
def test_damaged_caffemodels(googlenet, tmp_path, change, words: str) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(change(caffemodel(googlenet)))
    with pytest.raises(convert.ConvertError, match=words):
        convert.convert(path)


def test_a_classifier_is_looked_at_before_a_network_is_made(googlenet) -> None:
    """Bias and weight must agree: a network of as many classes as a bias says would be large."""
    blobs = caffe_blobs(googlenet)
    for name, arrays, words in (
        ("loss3/classifier", [np.zeros((3, 0)), np.zeros(3)], r"fc.weight has shape \(3, 0\), exp"),
        ("loss3/classifier", [np.zeros((3, 1024)), np.zeros(9)], r"expected \(9, 1024\)"),
        (
            "loss2/classifier",
            [np.zeros((1, 1024)), np.zeros(1)],
            r"aux2.fc2.weight has shape \(1, ",
        ),
    ):
        with pytest.raises(convert.ConvertError, match=words):
            caffe.from_blobs({**blobs, name: arrays})


def test_memory_of_a_whole_file(tmp_path) -> None:
    """Peak of converting 28 MB of GoogLeNet: at most 1.1 times the file and 64 MiB."""
    path = tmp_path / "net.caffemodel"
    path.write_bytes(caffemodel(models.googlenet(num_classes=1000, aux=False)))
    tracemalloc.start()
    try:
        convert.convert(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= 1.1 * path.stat().st_size + (64 << 20)


# ---- torchvision and TF-slim -------------------------------------------------------------------
def as_torchvision(net: pyi.Module, rename) -> dict[str, np.ndarray]:
    state = {}
    for name, array in net.state_dict().items():
        if array.ndim == 4:
            array = array.transpose(0, 3, 1, 2)
        elif name.endswith("fc1.weight"):
            array = array.reshape(-1, 4, 4, 128).transpose(0, 3, 1, 2).reshape(len(array), -1)
        state[rename(name)] = array
        if name.endswith("norm.var"):
            state[rename(name).replace("running_var", "num_batches_tracked")] = np.array(3)
    return state


TORCHVISION = {
    "googlenet_bn": (torchvision.googlenet_name, 344, "inception4e.branch4.1.bn.running_var"),
    "inception_v3": (torchvision.inception_v3_name, 566, "Mixed_7c.branch3x3dbl_3b.conv.weight"),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_names(name: str, tmp_path) -> None:
    rename, tensors, one = TORCHVISION[name]
    net = getattr(models, name)(num_classes=4, aux=False, seed=3)
    state = as_torchvision(net, rename)
    assert len(state) == tensors and one in state
    np.savez(tmp_path / "net.npz", **state)
    found = convert.convert(tmp_path / "net.npz")
    assert found.model == name and found.preprocessing.std == (0.5, 0.5, 0.5)
    for key, array in net.state_dict().items():
        np.testing.assert_array_equal(found.net.state_dict()[key], array, err_msg=key)
    found.save(tmp_path / "ours.safetensors")
    again = convert.read(tmp_path / "ours.safetensors")
    assert (again.model, again.preprocessing) == (found.model, found.preprocessing)
    np.testing.assert_array_equal(again.net.state_dict()["fc.weight"], net.fc.weight.data)


def test_heads_of_torchvision_come_too() -> None:
    net = models.googlenet_bn(num_classes=4, seed=3)
    state = as_torchvision(net, torchvision.googlenet_name)
    assert len(state) == 364
    found, _, _ = torchvision.build(state, None)
    np.testing.assert_array_equal(found.aux2.fc1.weight.data, net.aux2.fc1.weight.data)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("conv1.bn.weight"), "missing conv1.norm.gamma"),
        (lambda s: s.update(conv9=np.zeros(1)), "googlenet_bn has no place for conv9"),
        (lambda s: s.pop("fc.bias"), "no fc.bias"),
        (lambda s: s.update({"conv1.conv.weight": np.zeros((64, 3, 5, 5))}), r"conv1.conv.weight "
         r"has shape \(64, 5, 5, 3\)"),
    ],
)  # fmt: skip
def test_other_state_dicts_are_refused(change, words: str) -> None:
    net = models.googlenet_bn(num_classes=2, aux=False)
    state = as_torchvision(net, torchvision.googlenet_name)
    change(state)
    with pytest.raises(convert.ConvertError, match=words):
        torchvision.build(state, None)


SLIM = {"InceptionV1": ("googlenet_bn", {"aux": False}), "InceptionV3": ("inception_v3", {})}


@pytest.mark.parametrize("root", SLIM)
def test_slim_names(root: str) -> None:
    name, how = SLIM[root]
    net = getattr(models, name)(num_classes=4, seed=5, **how)
    own = net.state_dict()
    state = {}
    for unit, scope in slim._unit_names(root).items():
        state[f"{root}/{scope}/weights"] = own[f"{unit}.conv.weight"].transpose(1, 2, 3, 0)
        for ours, theirs in slim._NORM.items():
            state[f"{root}/{scope}/BatchNorm/{theirs}"] = own[f"{unit}.norm.{ours}"]
    heads = {"fc": slim._FC[root]} | ({"aux1.fc": "AuxLogits/Conv2d_2b_1x1"} if not how else {})
    for ours, scope in heads.items():
        w = np.concatenate([np.ones((1, own[f"{ours}.weight"].shape[1])), own[f"{ours}.weight"]])
        state[f"{root}/{scope}/weights"] = w.T[None, None].astype(np.float32)
        state[f"{root}/{scope}/biases"] = np.append(np.float32(9), own[f"{ours}.bias"])
    convs = sum(p.ndim == 4 for p in own.values())
    assert len(slim._unit_names(root)) == convs
    found, _, _ = slim.build(state, None)
    for key, array in own.items():
        np.testing.assert_array_equal(found.state_dict()[key], array, err_msg=key)
    state.pop(f"{root}/Conv2d_1a_{'7x7' if how else '3x3'}/weights")
    with pytest.raises(convert.ConvertError, match=r"has no Inception.*Conv2d_1a_.*/weights"):
        slim.build(state, None)


def test_published_slim_names() -> None:
    """Names read from the published graphs, irregular ones among them."""
    v1, v3 = set(slim._unit_names("InceptionV1").values()), slim._unit_names("InceptionV3")
    assert {"Mixed_5b/Branch_2/Conv2d_0a_3x3", "Mixed_3b/Branch_1/Conv2d_0b_3x3"} <= v1
    assert {
        "Mixed_5c/Branch_1/Conv_1_0c_5x5",
        "Mixed_6a/Branch_0/Conv2d_1a_1x1",
        "Mixed_7b/Branch_1/Conv2d_0b_3x1",
        "Mixed_7c/Branch_1/Conv2d_0c_3x1",
    } <= set(v3.values())


# ---- files -------------------------------------------------------------------------------------
def test_files_that_are_no_weights(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="no file"):
        convert.convert(tmp_path / "nothing.npz")
    for name, words in (("a.txt", "ends in '.txt'"), ("a.npz", "not a readable .npz")):
        (tmp_path / name).write_bytes(b"PK\x03\x04 and then nothing")
        with pytest.raises(convert.ConvertError, match=words):
            convert.convert(tmp_path / name)
    (tmp_path / "a.npz").unlink()
    np.savez(tmp_path / "a.npz", np.array([object()], object))
    with pytest.raises(convert.ConvertError, match="not a readable"):
        convert.convert(tmp_path / "a.npz", source="slim")
    with pytest.raises(
        convert.ConvertError, match="source is 'keras', expected one of torchvision"
    ):
        convert.convert(tmp_path / "a.npz", source="keras")
    models.googlenet_cifar().save(tmp_path / "own.safetensors")
    with pytest.raises(convert.ConvertError, match="was not written by convert"):
        convert.read(tmp_path / "own.safetensors")


def test_pictures_go_in_as_the_weights_want_them(tmp_path) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed (extra `train`)")
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (300, 256, 3), np.uint8)
    image.fromarray(pixels).save(tmp_path / "a.png")
    how = convert.Preprocessing(1.0, (123, 117, 104), (1, 1, 1), 256, 224)
    found = convert.Converted(models.googlenet(num_classes=2, aux=False), "googlenet", how)
    x = found.images([tmp_path / "a.png"])
    expected = pixels[22 + 16 : 22 + 240, 16:240].astype(np.float32) - np.float32(how.mean)
    np.testing.assert_array_equal(x[0], expected)
    (tmp_path / "b.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"images: .*b\.png: not an image"):
        found.images([tmp_path / "a.png", tmp_path / "b.png"])


def test_the_verb(tmp_path, capsys) -> None:
    from pyinception.cli import main

    net = models.googlenet_bn(num_classes=4, aux=False)
    np.savez(tmp_path / "net.npz", **as_torchvision(net, torchvision.googlenet_name))
    assert main.run(["convert", str(tmp_path / "net.npz"), str(tmp_path / "o.safetensors")]) == 0
    assert "googlenet_bn, 5,604,004 parameters" in capsys.readouterr().out
    again = [str(tmp_path / "o.safetensors"), str(tmp_path / "p.safetensors")]
    assert main.run(["convert", *again]) == 0
    assert (tmp_path / "o.safetensors").read_bytes() == (tmp_path / "p.safetensors").read_bytes()
    capsys.readouterr()
    assert main.run(["convert", *again, "--model", "inception_v3"]) == 1
    assert "holds googlenet_bn, but model is 'inception_v3'" in capsys.readouterr().err
    assert main.run(["convert", *again, "--model", "googlenet_bn"]) == 0
    assert main.run(["convert", str(tmp_path / "none.npz"), str(tmp_path / "o.safetensors")]) == 1
    assert "there is no file" in capsys.readouterr().err


def test_a_file_that_cannot_be_converted_is_named(tmp_path, capsys) -> None:
    """A network that its own `save` wrote says no name; the message tells what does."""
    from pyinception.cli import main

    (tmp_path / "a.caffemodel").write_bytes(b"abc")
    models.googlenet_bn(num_classes=4).save(tmp_path / "b.safetensors")
    out = str(tmp_path / "o.onnx")
    named = ["--model", "inception_v3"]  # who names the model knows where the file is from
    for name, more in (("a.caffemodel", []), ("b.safetensors", []), ("b.safetensors", named)):
        assert main.run(["convert", str(tmp_path / name), out, *more]) == 1
        told = capsys.readouterr().err
        assert f"convert: {tmp_path / name}" in told
        assert ("convert.export(net, ...) writes" in told) == (name[0] == "b" and not more)


def test_what_convert_saved_is_read_whatever_the_network(tmp_path) -> None:
    how = convert.Preprocessing(255, (0.5,) * 3, (0.5,) * 3, 256, 224)
    for name, options in (("bn_inception", {"slim": True}), ("googlenet_bn", {"in_channels": 1})):
        net = getattr(models, name)(num_classes=3, **options)
        convert.Converted(net, name, how, options).save(tmp_path / "net.safetensors")
        found = convert.read(tmp_path / "net.safetensors")
        assert found.net.count_parameters() == net.count_parameters()
    convert.Converted(net, name, how).save(tmp_path / "net.safetensors")  # its option forgotten
    with pytest.raises(convert.ConvertError, match="was not written by convert"):
        convert.read(tmp_path / "net.safetensors")


def test_damage_is_one_kind_of_error(tmp_path) -> None:
    net = models.googlenet_bn(num_classes=2, aux=False)
    state = as_torchvision(net, torchvision.googlenet_name)
    for bias in (np.float32(1), np.zeros(0, np.float32), np.array(["a", "b"])):
        np.savez(tmp_path / "net.npz", **{**state, "fc.bias": bias})
        with pytest.raises(convert.ConvertError):
            convert.convert(tmp_path / "net.npz")
    net.save(tmp_path / "net.safetensors")
    whole = (tmp_path / "net.safetensors").read_bytes()
    (tmp_path / "net.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(convert.ConvertError, match="truncated"):
        convert.convert(tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match=r"crop is 224, expected 1 \.\.\. resize = 200"):
        convert.Preprocessing(1, (0,), (1,), 200, 224)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"scale": 0}, "Preprocessing: scale is 0, expected a number that is not 0"),
        ({"scale": float("nan")}, "Preprocessing: scale is nan"),
        ({"std": (0.5, 0.0, 0.5)}, r"Preprocessing: std is \(0.5, 0.0, 0.5\), expected three"),
        ({"mean": (0.5, 0.5)}, r"Preprocessing: mean is \(0.5, 0.5\), expected three"),
        ({"channels": "GBR"}, "Preprocessing: channels is 'GBR', expected RGB or BGR"),
    ],
)
def test_preprocessing_that_no_image_survives(changed, words: str) -> None:
    how = {"scale": 255, "mean": (0.5,) * 3, "std": (0.5,) * 3, "resize": 256, "crop": 224}
    with pytest.raises(ValueError, match=words):
        convert.Preprocessing(**how | changed)


def test_a_network_without_a_linear_layer_is_read_again(tmp_path) -> None:
    """Network in Network ends in the mean of its last convolution."""
    how = convert.Preprocessing(255, (0.5,) * 3, (0.5,) * 3, 32, 32)
    net = models.network_in_network(num_classes=4)
    convert.Converted(net, "network_in_network", how).save(tmp_path / "net.safetensors")
    found = convert.read(tmp_path / "net.safetensors")
    assert found.classes == 4 and found.net.count_parameters() == net.count_parameters()
