"""Files that are neither picture, sound nor video: a solid, a drawing, weights."""

import io
import json
import random
import struct
import tarfile

CUBE_FACES = (
    0,
    1,
    3,
    0,
    3,
    2,
    4,
    6,
    7,
    4,
    7,
    5,
    0,
    4,
    5,
    0,
    5,
    1,
    2,
    3,
    7,
    2,
    7,
    6,
    0,
    2,
    6,
    0,
    6,
    4,
    1,
    5,
    7,
    1,
    7,
    3,
)


def glb(seed: int) -> bytes:
    """A coloured box as binary glTF 2.0."""
    rng = random.Random(seed)
    size = [round(rng.uniform(0.4, 1.2), 3) for _ in range(3)]
    corners = [[side * (1 if corner >> axis & 1 else -1) for axis, side in enumerate(size)] for corner in range(8)]
    data = struct.pack("<36H", *CUBE_FACES) + struct.pack("<24f", *(at for corner in corners for at in corner))
    scene = {
        "asset": {"version": "2.0", "generator": "sandbox"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 1}, "indices": 0, "material": 0}]}],
        "materials": [{"pbrMetallicRoughness": {"baseColorFactor": [rng.random(), rng.random(), rng.random(), 1]}}],
        "buffers": [{"byteLength": len(data)}],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": 72, "target": 34963},
            {"buffer": 0, "byteOffset": 72, "byteLength": 96, "target": 34962},
        ],
        "accessors": [
            {"bufferView": 0, "componentType": 5123, "count": 36, "type": "SCALAR"},
            {
                "bufferView": 1,
                "componentType": 5126,
                "count": 8,
                "type": "VEC3",
                "min": [-side for side in size],
                "max": size,
            },
        ],
    }
    text = json.dumps(scene, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(data), 0x004E4942) + data
    return struct.pack("<III", 0x46546C67, 2, 12 + len(chunks)) + chunks


def svg(seed: int) -> bytes:
    """Circles."""
    rng = random.Random(seed)
    circles = "".join(
        f'<circle cx="{rng.randint(40, 472)}" cy="{rng.randint(40, 472)}" r="{rng.randint(20, 90)}" '
        f'fill="hsl({rng.randint(0, 359)},70%,60%)" fill-opacity=".7"/>'
        for _ in range(12)
    )
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 512 512">{circles}</svg>\n'.encode()


def weights(seed: int) -> bytes:
    """What a training leaves: a tar with a file of numbers and a note."""
    rng = random.Random(seed)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, body in (("lora.safetensors", rng.randbytes(20_000)), ("captions.txt", b"a photo of TOK\n")):
            entry = tarfile.TarInfo(f"output/{name}")
            entry.size = len(body)
            tar.addfile(entry, io.BytesIO(body))
    return file.getvalue()
