"""Checkpoints are data: gadgets, lies and bombs in pickles; each is refused in one line, and nothing happens."""

from __future__ import annotations

import ast
import struct

import pytest
import torch
from torch import nn

from models.loading import load_checkpoint
from models.yolo import DetectionModel
from tests.torch_file_tools import call, name, refusal, storage, tensor, text, tiny_model, write
from utils.storage.files import ROOT

CONV = "models.common.Conv"
MODEL = "models.yolo.DetectionModel"
BIG = b"\x8a\x08" + struct.pack("<q", 2**62)
NUMBER = (
    name("numpy.dtype")
    + text("f8")
    + b"\x89\x88\x87R(K\x03"
    + text("<")
    + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)
BYTES = call("_codecs.encode", text("12345678") + text("latin1") + b"\x86")


def _array(kind: str, shape: tuple[int, ...], content: bytes) -> bytes:
    """A NumPy array; ``content`` is the opcode that pushes its bytes."""
    sides = b"(" + b"".join(b"J" + struct.pack("<i", side) for side in shape) + b"t"
    begun = call("numpy.core.multiarray._reconstruct", name("numpy.ndarray") + b"K\x00\x85C\x01b\x87")
    return begun + b"(K\x01" + sides + call("numpy.dtype", text(kind) + b"\x85") + b"\x89" + content + b"tb"


MEGABYTE = b"B" + struct.pack("<I", 2**20) + bytes(2**20) + b"q\x000"
GADGETS = {
    # functions and classes of other homes, by every opcode that names one
    "system": call("os.system", text("touch {canary}") + b"\x85"),
    "eval": call("builtins.eval", text("open('{canary}', 'w')") + b"\x85"),
    "stack global": text("builtins") + text("exec") + b"\x93" + text("open('{canary}', 'w')") + b"\x85R",
    "dotted": b"\x80\x04"
    + text("torch")
    + text("serialization.os.system")
    + b"\x93"
    + text("touch {canary}")
    + b"\x85R",
    "dotted class": b"\x80\x04" + text("models.common") + text("Conv.__init__") + b"\x93)R",
    "instance": b"(" + text("touch {canary}") + b"ios\nsystem\n",
    "object": b"(" + name("os.system") + text("touch {canary}") + b"o",
    "known instance": b"(i" + CONV.replace(".Conv", "\nConv").encode() + b"\n",
    "extension": b"\x82\x01",
    "extension 2": b"\x83\x01\x00",
    "extension 4": b"\x84\x01\x00\x00\x00",
    "partial": call("functools.partial", name("os.system") + b"\x85"),
    "attribute": call("builtins.getattr", name(CONV) + text("__init__") + b"\x86"),
    "import": call("builtins.__import__", text("os") + b"\x85"),
    "load": call("torch.load", text("{canary}") + b"\x85"),
    "jit": call("torch.jit._serialization.load", text("{canary}") + b"\x85"),
    "from type": call("torch._tensor._rebuild_from_type_v2", name(CONV) + name(CONV) + b")}\x87"),
    "newobj ex": name(CONV) + b")}\x92",
    "reconstructor": call("copy_reg._reconstructor", name(CONV) + b"N\x86"),
    # allowed names where they do not belong
    "module called": call(CONV, b"K\x01K\x01\x86"),
    "model called": call(MODEL, text("yolov5x.yaml") + b"\x85"),
    "linear called": call("torch.nn.modules.linear.Linear", BIG + BIG + b"\x86"),
    "module with arguments": name(CONV) + b"K\x01\x85\x81",
    "class as a value": name(CONV),
    "class of a dict": name("collections.OrderedDict") + b")\x81",
    "set by newobj": name("builtins.set") + b")\x81",
    "tensor by newobj": name("torch._utils._rebuild_tensor_v2") + b")\x81",
    "storage class": name("torch.FloatStorage"),
    "storage called": call("torch.FloatStorage", BIG + b"\x85"),
    "array called": call("numpy.ndarray", BIG + b"\x85\x85"),
    "called twice": call("collections.OrderedDict") + b")R",
    "call of text": text("os.system") + b")R",
    "call of a module": name(CONV) + b")\x81}bN\x85R",
    "call of a list": b"])R",
    "numpy object": call("numpy.dtype", text("O8") + b"K\x00K\x01\x87"),
    "numpy void": call("numpy.dtype", text("V99999999") + b"K\x00K\x01\x87"),
    "numpy object array": call("numpy.core.multiarray._reconstruct", name("numpy.ndarray") + b"K\x00\x85C\x01b\x87")
    + b"(K\x01K\x01\x85"
    + call("numpy.dtype", text("O8") + b"\x85")
    + b"\x89]tb",
    "array of a class": call("numpy.core.multiarray._reconstruct", name(CONV) + b"K\x00\x85C\x01b\x87"),
    "array without values": call("numpy.core.multiarray._reconstruct", name("numpy.ndarray") + b"K\x00\x85C\x01b\x87"),
    "array of empty lists": b"](" + _array("f8", (10**6, 0), b"C\x00") * 50 + b"e",
    "array of lists of lists": _array("u1", (10**5, *[1] * 12), b"B" + struct.pack("<I", 10**5) + bytes(10**5)),
    "arrays of the same bytes": MEGABYTE + b"](" + _array("S2", (2**19,), b"h\x00") * 100 + b"e",
    "the same array again": _array("u1", (10**5,), b"B" + struct.pack("<I", 10**5) + bytes(10**5))
    + b"q\x000]("
    + b"h\x00" * 2000
    + b"e",
    "short number": call("numpy.core.multiarray.scalar", NUMBER + b"C\x02ab\x86"),
    "encode": call("_codecs.encode", text("x") + text("rot13") + b"\x86"),
    "encode more": call("_codecs.encode", text("x") + text("zlib") + b"\x86"),
    "path of a path": call("pathlib.PosixPath", b"]\x85"),
    "device": call("torch.device", text("cuda:0;rm") + b"\x85"),
    "size": call("torch.Size", text("12") + b"\x85"),
    # states
    "state of a dict": b"}}" + text("__class__") + name(CONV) + b"sb",
    "state of a list": b"]}b",
    "state of a tuple": b")}b",
    "state of text": text("x") + b"}b",
    "state of a tensor": tensor() + b"}" + text("__class__") + name(CONV) + b"sb",
    "state of a class": name(CONV) + b"}" + text("forward") + b"Nsb",
    "state of an ordered dict": call("collections.OrderedDict") + b"}" + text("update") + b"Nsb",
    "state with slots": name(CONV) + b")\x81N}" + text("forward") + b"Ns\x86b",
    "two states": name(CONV) + b")\x81}b}b",
    "no state": name(CONV) + b")\x81",
    "items for a module": name(CONV) + b")\x81}b(N" + b"Nu",
    "items for text": text("x") + b"(NNu",
    "append to a tuple": b")Na",
    "append to a module": name(CONV) + b")\x81Na",
    "append to a set": b"\x8fNa",
    "state of a namespace": name("argparse.Namespace") + b")\x81N}\x86b",
    # tensors beyond their numbers
    "outside": tensor(offset=b"K\x01"),
    "far outside": tensor(offset=BIG),
    "before": tensor(offset=b"J\xff\xff\xff\xff"),
    "long": tensor(size=b"K\x02\x85"),
    "stride": tensor(size=b"K\x02\x85", stride=BIG + b"\x85"),
    "huge": tensor(size=BIG + b"\x85", stride=b"K\x00\x85"),
    "huge and empty": tensor(BIG + BIG + b"\x86", b"K\x00K\x00\x86"),
    "product of sizes": tensor(b"(" + BIG + BIG + BIG + BIG + b"t", b"(K\x00K\x00K\x00K\x00t"),
    "no numbers of many": tensor(b"K\x00" + BIG + b"\x86", b"K\x01K\x01\x86"),
    "no numbers, far apart": tensor(b"K\x00\x85", BIG + b"\x85"),
    "one number, far apart": tensor(b"K\x01\x85", b"\x8a\x09" + bytes(7) + b"\x80\x00\x85"),
    "numbers beyond 63 bits": tensor(b"K\x00\x85", offset=b"\x8a\x09" + b"\xff" * 8 + b"\x00"),
    "size of nothing": call("torch.Size", BIG + b"\x85\x85"),
    "negative size 2": call("torch.Size", b"J\xff\xff\xff\xff\x85\x85"),
    "negative size": tensor(size=b"J\xff\xff\xff\xff\x85"),
    "negative stride": tensor(stride=b"J\xff\xff\xff\xff\x85"),
    "boolean size": tensor(size=b"\x88\x85"),
    "size of text": tensor(size=text("1") + b"\x85"),
    "many dimensions": tensor(b"(" + b"K\x01" * 99 + b"t", b"(" + b"K\x01" * 99 + b"t"),
    "no stride": tensor(stride=b")"),
    "two kinds": b"(" + storage() + storage("Double") + b"t",
    "two lengths": b"(" + storage() + storage(count=2) + b"t",
    "negative length": storage(count=-1),
    "a storage itself": storage(),
    "key": storage(key="../0"),
    "unknown storage": b"(" + text("x") + b"tQ",
    "identity of text": text("storage") + b"Q",
    "storage of a class": storage().replace(b"FloatStorage", b"device\x00")[:-2],
    "hooks": call("torch._utils._rebuild_parameter", tensor() + b"\x88}" + text("a") + b"Ns\x87"),
    "parameter of text": call("torch._utils._rebuild_parameter", text("x") + b"\x88}\x87"),
    # bombs
    "long number": b"\x8b\xff\xff\xff\x7f" + b"\x01" * 99,
    "long digits": b"L" + b"9" * 5000 + b"L\n",
    "long number 2": b"\x8a\xff" + b"\x01" * 255,
    "set of numbers": call("builtins.set", b"](" + b"K\x01" * 20000 + b"e\x85"),
    "range": call("builtins.range", BIG + b"\x85"),
    "endless range": call("builtins.range", b"K\x00K\x09K\x00\x87"),
    "bytearray": call("builtins.bytearray", BIG + b"\x85"),
    "bytearray opcode": b"\x96" + struct.pack("<Q", 2**40),
    "text": b"X\xff\xff\xff\xff",
    "text 8": b"\x8d" + struct.pack("<Q", 2**62),
    "frame": b"\x95" + struct.pack("<Q", 2**62),
    "deep list": b"]" * 500 + b"a" * 499,
    "deep tuple": b")" + b"\x85" * 100_000,
    "marks": b"(" * 100_000,
    "list in itself": b"]q\x00h\x00a",
    "dict in itself": b"}q\x00" + text("a") + b"h\x00s",
    "tuple in itself": b"]q\x00h\x00\x85q\x01a0h\x01",
    "frozen set": b"(N\x91",
    "next buffer": b"\x97",
    "duplicate": b"N2\x86",
    "laughs": b"]q\x000"
    + b"".join(b"](" + (b"h" + bytes([i])) * 10 + b"eq" + bytes([i + 1]) + b"0" for i in range(30))
    + b"h\x1e",
    "laughing tuples": b")" + b"q\x00h\x00\x86" * 60,
    "same text again": b"X"
    + struct.pack("<I", 2**20)
    + b"a" * 2**20
    + b"q\x000"
    + (name("_codecs.encode") + b"h\x00" + text("latin1") + b"\x86R0") * 2000
    + b"N",
    "same set again": b"]("
    + b"".join(text(str(i)) for i in range(9000))
    + b"eq\x000"
    + (name("builtins.set") + b"h\x00\x85R0") * 40_000
    + b"N",
    "keys that collide": b"}("
    + b"".join(b"\x8a\x09" + (i * (2**61 - 1)).to_bytes(9, "little") + b"N" for i in range(8))
    + b"u"
    + b"}("
    + b"".join(b"G" + struct.pack(">d", float(i)) + b"N" for i in range(20_000))
    + b"u\x86",
    "tuple as a key": b"}" + b"N\x85" + b"Ns",
    "nothing to take": b"\x87",
    "nothing to set": b"}s",
    "no mark": b"u",
    "nothing": b"",
    "unknown memo": b"h\x05",
    "two values": b"NN",
    "protocol 9": b"\x80\x09N",
    "no opcode": b"\xff",
}


@pytest.mark.parametrize("gadget", GADGETS)
def test_gadgets(tmp_path, gadget):
    canary = tmp_path / "canary"
    value = GADGETS[gadget].replace(b"{canary}", str(canary).encode())
    methods = {kind: dict(vars(kind)) for kind in (nn.Module, nn.SiLU, nn.Conv2d, DetectionModel, torch.Tensor)}
    message = refusal(write(tmp_path / "gadget.pt", value))
    assert "refused" in message or "damaged" in message or "nothing of it was run" in message
    assert "referred to by nothing" not in message  # the numbers of ``write``: it would be refused without the gadget
    assert not canary.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["gadget.pt"]
    assert all(dict(vars(kind)) == before for kind, before in methods.items())


def test_harmless_values_are_read(tmp_path):
    """The same means, used as torch.save uses them, are values: else the gadgets would show nothing."""
    model = tiny_model()
    content = {
        "model": model, "numbers": [torch.ones(2), nn.Parameter(torch.ones(1))],
        "types": [torch.float16, torch.Size([1])],
        "device": torch.device("cuda", 1), "sets": {1, "a"}, "range": range(3),
        "plain": (None, True, 2.5, b"x", -(2**40)),
    }  # fmt: skip
    for protocol in (2, 3, 4, 5):
        torch.save(content, tmp_path / "good.pt", pickle_protocol=protocol)
        loaded = load_checkpoint(tmp_path / "good.pt")
        assert {key: value for key, value in loaded.items() if key not in ("model", "numbers")} == {
            key: value for key, value in content.items() if key not in ("model", "numbers")
        }
        state = loaded["model"].state_dict()
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
        assert torch.equal(loaded["numbers"][0], torch.ones(2))


def test_the_format_before_the_zip_archive(tmp_path):
    model, file = tiny_model(), tmp_path / "old.pt"
    torch.save({"model": model, "epoch": 3}, file, _use_new_zipfile_serialization=False)
    loaded = load_checkpoint(file)
    assert loaded["epoch"] == 3
    state = loaded["model"].state_dict()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    content = file.read_bytes()
    for damaged in (content[:-1], content + b"x", content[: len(content) // 2], content[:40]):
        file.write_bytes(damaged)
        refusal(file)


def test_shared_numbers_stay_shared(tmp_path):
    base = torch.arange(6.0)
    torch.save({"model": tiny_model(), "views": [base[:3], base[2:], base]}, tmp_path / "views.pt")
    first, second, whole = load_checkpoint(tmp_path / "views.pt")["views"]
    whole[2] = 9
    assert (first[2], second[0]) == (9, 9)


# Calls that make objects of what a file says, and where they may stand
UNPICKLING = {"load", "loads", "Unpickler", "_load", "legacy_load"}
ALLOWED = {
    ("utils/drawing/background.py", "pickle.load"),  # the pipes of a process that was started here
    ("utils/drawing/worker.py", "pickle.load"),  # the same, at its other end
    ("models/backends/torchscript.py", "torch.jit.load"),  # which says so: SECURITY.md
    ("utils/dataset/label_cache.py", "np.load"),  # with allow_pickle=False, as the next one
    ("benchmarks/frontier/matches.py", "np.load"),
}


@pytest.mark.slow
def test_nothing_else_unpickles():
    found = set()
    folders = ("models", "utils", "prune_tools", "data", "benchmarks", "examples")
    files = [*ROOT.glob("*.py"), *(file for folder in folders for file in (ROOT / folder).rglob("*.py"))]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            words = ast.unparse(node.func)
            if node.func.attr in UNPICKLING and words.split(".")[0] in (
                "torch",
                "pickle",
                "np",
                "numpy",
                "dill",
                "joblib",
            ):
                found.add((file.relative_to(ROOT).as_posix(), words))
            assert not any(
                word.arg == "allow_pickle" and ast.unparse(word.value) != "False" for word in node.keywords
            ), file
    assert len(files) > 100
    assert found <= ALLOWED
