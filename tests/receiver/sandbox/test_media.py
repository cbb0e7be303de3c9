"""The files are what they say: other people's decoders open them."""

import io
import json
import random
import struct
import tarfile
import wave
from xml.etree import ElementTree as ET

import pytest
from PIL import Image
from tinytag import TinyTag

from receiver.sandbox import pictures, recipes, sound, things, video
from receiver.sandbox.pictures import Picture
from receiver.sandbox.recipes import KINDS, Pantry, Recipe
from receiver.sandbox.webp import webp


@pytest.mark.parametrize("draw", [pictures.landscape, pictures.mask, pictures.depth])
@pytest.mark.parametrize("encode", [pictures.png, webp])
def test_a_picture_decodes_to_its_own_pixels(draw, encode):
    for width, height in ((96, 64), (1, 1), (7, 130)):
        picture = draw(5, width, height)
        with Image.open(io.BytesIO(encode(picture))) as opened:
            assert opened.size == (width, height)
            assert opened.convert("RGB").tobytes() == picture.pixels


def test_webp_holds_long_runs_and_noise():
    noise = Picture(50, 40, random.Random(1).randbytes(50 * 40 * 3))
    flat = Picture(200, 100, b"\x01\x02\x03" * 20_000)
    for picture in (noise, flat):
        with Image.open(io.BytesIO(webp(picture))) as opened:
            assert opened.convert("RGB").tobytes() == picture.pixels


def test_the_same_seed_draws_the_same_and_another_does_not():
    assert pictures.landscape(1, 32, 32) == pictures.landscape(1, 32, 32) != pictures.landscape(2, 32, 32)


def test_wav_and_flac_tell_the_same_melody():
    samples = sound.melody(3)
    with wave.open(io.BytesIO(sound.wav(3))) as opened:
        assert opened.getparams()[:4] == (1, 2, sound.RATE, len(samples))
        assert opened.readframes(len(samples)) == struct.pack(f"<{len(samples)}h", *samples)
    flac = sound.flac(3)
    packed = struct.pack(f">{len(samples)}h", *samples)
    at = flac.index(b"\xff\xf8") + 6  # past the header of the first frame and its subframe's
    assert flac[at + 1 : at + 1 + 2000] == packed[:2000]


@pytest.mark.parametrize(
    ("make", "ending"), [(sound.wav, "wav"), (sound.flac, "flac"), (sound.mp3, "mp3"), (video.video, "mp4")]
)
def test_two_seconds_last_two_seconds(make, ending):
    tag = TinyTag.get(f"out.{ending}", file_obj=io.BytesIO(make(3)))
    assert tag.duration is not None
    assert abs(tag.duration - 2) < 0.05


def boxes(data):
    at = 0
    while at < len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        yield name, data[at + 8 : at + size]
        at += size


def test_a_video_has_its_index_first_and_every_frame_in_it():
    made = dict(boxes(video.video(3)))
    assert list(made) == [b"ftyp", b"moov", b"mdat"]
    at, types = 0, []
    while at < len(made[b"mdat"]):
        size = struct.unpack_from(">I", made[b"mdat"], at)[0]
        nal = made[b"mdat"][at + 4 : at + 4 + size]
        types.append(nal[0] & 31)
        assert b"\0\0\0" not in nal
        assert b"\0\0\1" not in nal
        at += 4 + size
    assert types == [5] + [1] * (video.FRAMES - 1)
    offset = struct.unpack_from(">I", made[b"moov"], made[b"moov"].index(b"stco") + 12)[0]
    whole = video.video(3)
    assert whole[offset - 4 : offset] == b"mdat"


def test_a_start_code_cannot_appear_by_chance():
    bits = video.NalBits(0x65)
    bits.samples(bytes(9) + b"\x01")
    nal = bits.done()
    assert b"\0\0\0" not in nal
    assert nal.replace(b"\0\0\3", b"\0\0") == b"\x65" + bytes(9) + b"\x01\x80"


def test_a_solid_is_gltf():
    made = things.glb(3)
    magic, version, length = struct.unpack_from("<4sII", made)
    assert (magic, version, length) == (b"glTF", 2, len(made))
    size, kind = struct.unpack_from("<I4s", made, 12)
    scene = json.loads(made[20 : 20 + size])
    assert kind == b"JSON"
    assert scene["buffers"][0]["byteLength"] == struct.unpack_from("<I", made, 20 + size)[0]


def test_drawings_are_xml_and_weights_a_tar():
    assert len(ET.fromstring(things.svg(3))) == 12
    with tarfile.open(fileobj=io.BytesIO(things.weights(3))) as tar:
        assert tar.getnames() == ["output/lora.safetensors", "output/captions.txt"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_recipe_gives_the_same_bytes_in_any_pieces(kind):
    pantry, recipe = Pantry(), Recipe(kind, 3, 64, 64, 200_000)
    whole = b"".join(pantry.pieces(recipe))
    facts = pantry.facts(recipe)
    assert len(whole) == facts.size
    assert b"".join(pantry.pieces(recipe, 100, 70_000)) == whole[100:70_000]
    assert pantry.facts(recipe) is facts
    assert recipe.content_type
    assert b"".join(Pantry().pieces(recipe)) == whole


def test_the_pantry_forgets_what_is_too_much(monkeypatch):
    monkeypatch.setattr(recipes, "CACHE_BYTES_MAX", 10_000)
    monkeypatch.setattr(recipes, "FACTS_MAX", 2)
    pantry = Pantry()
    for seed in range(5):
        pantry.facts(Recipe("png", seed, 200, 200))
    assert pantry._held <= 10_000
    assert len(pantry._facts) == 2
