"""The models of the sandbox, one for each shape of output; names in Replicate's style."""

import hashlib
from typing import Any

from receiver.sandbox.models import Ask, Inline, Made, Model
from receiver.sandbox.recipes import SIZE_MAX, Recipe

URI = {"type": "string", "format": "uri"}
URIS = {"type": "array", "items": URI}
GROWING = {"type": "array", "items": URI, "x-cog-array-type": "iterator"}
TOKENS = {
    "type": "array",
    "items": {"type": "string"},
    "x-cog-array-type": "iterator",
    "x-cog-array-display": "concatenate",
}
FOREIGN_URL = "https://images.example.org/outputs/out-0.png"  # a reserved name (RFC 2606): nobody is there
WORDS = [
    "a",
    "gentle",
    "fox",
    "walks",
    "home",
    "under",
    "seven",
    "bright",
    "moons",
    "while",
    "the",
    "river",
    "hums",
    "an",
    "old",
    "blue",
    "song",
    "about",
    "rain",
]

PROMPT = {"type": "string", "description": "What to make"}
FORMAT = {"type": "string", "enum": ["webp", "png"], "default": "webp", "description": "Format of the output images"}
SIDE = {"type": "integer", "minimum": 8, "maximum": 2048, "default": 512, "description": "Pixels"}
PICTURE: dict[str, Any] = {
    "prompt": PROMPT,
    "seed": {"type": "integer", "description": "The same seed, the same picture; another each time without one"},
    "width": SIDE,
    "height": SIDE,
}


def _count(default: int, most: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": 1, "maximum": most, "default": default, "description": "How many"}


def _recipe(ask: Ask, index: int = 0, kind: str | None = None) -> Recipe:
    told = ask.input
    kind = kind or told.get("output_format", "png")
    return Recipe(kind, (ask.seed + index) % 2**32, told.get("width", 512), told.get("height", 512))


def _several(ask: Ask) -> Made:
    count = ask.input["num_outputs"]
    lines = [f"Using seed: {ask.seed}", *(f"Image {index + 1} of {count}" for index in range(count))]
    return Made([_recipe(ask, index) for index in range(count)], lines)


def _one(kind: str | None = None) -> Any:
    return lambda ask: Made(_recipe(ask, kind=kind), (f"Using seed: {ask.seed}",))


def _layers(ask: Ask) -> Made:
    depths = [_recipe(ask, index, "depth") for index in range(2)]
    return Made({"image": _recipe(ask), "mask": _recipe(ask, kind="mask"), "depth": depths})


def _frames(ask: Ask) -> Made:
    frames = [
        {"image": _recipe(ask, index), "score": round(ask.rng.random(), 4), "label": f"frame {index}"}
        for index in range(ask.input["num_outputs"])
    ]
    meta = {"count": len(frames), "preview": _recipe(ask, 1000, "webp"), "source": None}
    return Made({"frames": frames, "meta": meta}, (f"Using seed: {ask.seed}",))


def _tokens(ask: Ask) -> Made:
    count = ask.input["max_tokens"]
    tokens = ["\n\n", *(ask.rng.choice(WORDS) + " " for _ in range(count)), ""]
    counts = {"input_token_count": len(ask.input["prompt"].split()), "output_token_count": count}
    return Made(tokens, metrics=counts | {"tokens_per_second": 50.0, "time_to_first_token": 0.02})


def _linked(ask: Ask) -> Made:
    link = f"{ask.origin}/pbxt/0000000000000000000000000000000000000000000000/out-0.png"
    return Made(f"The picture at {link} shows a cat. See also https://replicate.delivery/pbxt/x/out.png.")


def _numbers(ask: Ask) -> Made:
    values = [round(ask.rng.random(), 6) for _ in range(5)]
    return Made({"score": values[0], "embedding": values, "label": "cat", "safe": True, "box": [1, 2, 30, 40]})


def _fails(ask: Ask) -> Made:
    return Made(None, (f"Using seed: {ask.seed}", "Traceback (most recent call last):"), error=ask.input["message"])


def _again(ask: Ask) -> Made:
    picture = _recipe(ask)
    return Made({"image": picture, "thumbnails": [picture, _recipe(ask, 1)], "cover": picture})


def _big(ask: Ask) -> Made:
    return Made(Recipe("bytes", ask.seed, size=ask.input["bytes"]), (f"Writing {ask.input['bytes']} bytes",))


def trained(ask: Ask) -> Made:
    """What a training makes: a version of the destination, and its weights."""
    lines = [f"step {step}/100 loss {1 / step:.4f}" for step in range(10, 101, 10)]
    version = f"{ask.destination}:{hashlib.sha256(str(ask.seed).encode()).hexdigest()}"
    return Made({"version": version, "weights": _recipe(ask, kind="tar")}, lines)


def _ours(name: str, description: str, make: Any, output: Any, inputs: Any = None, **more: Any) -> Model:
    """A model of the sandbox's own, official, so that it can be named without a version."""
    told = PICTURE if inputs is None else inputs
    sample = {"sample": {"prompt": "hills under a quiet sky"} if "prompt" in told else {}} | more
    return Model(
        owner="sandbox",
        name=name,
        description=description,
        make=make,
        output=output,
        inputs=told,
        official=True,
        **sample,
    )


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


_AUDIO = {"prompt": PROMPT, "output_format": {"type": "string", "enum": ["wav", "mp3", "flac"], "default": "wav"}}
_FRAME = _object(image=URI, score={"type": "number"}, label={"type": "string"})
_SIZE = {"type": "integer", "minimum": 0, "maximum": SIZE_MAX, "default": 10_000_000, "description": "Size of the file"}

OWN = (
    _ours("image", "One picture", _one(), URI, PICTURE | {"output_format": FORMAT}),
    _ours("four-images", "A list of pictures", _several, URIS, PICTURE | {"num_outputs": _count(4, 200)}),
    _ours("layers", "A picture, its mask and its depths", _layers, _object(image=URI, mask=URI, depth=URIS)),
    _ours(
        "frames",
        "Pictures deep within JSON",
        _frames,
        _object(frames={"type": "array", "items": _FRAME}, meta={"type": "object"}),
        PICTURE | {"num_outputs": _count(3, 50)},
    ),
    _ours("video", "A short video", _one("mp4"), URI, {"prompt": PROMPT}, predict_s=2.0),
    _ours("audio", "A short melody", _one(), URI, _AUDIO),
    _ours("solid", "A coloured box in three dimensions", _one("glb"), URI, {"prompt": PROMPT}),
    _ours("drawing", "A drawing of circles, as SVG", _one("svg"), URI, {"prompt": PROMPT}),
    _ours("linked-text", "Text that merely mentions a link", _linked, {"type": "string"}, {"prompt": PROMPT}),
    _ours("numbers", "JSON without any file", _numbers, {"type": "object"}, {"prompt": PROMPT}),
    _ours(
        "fails",
        "Fails by design",
        _fails,
        URI,
        {"message": {"type": "string", "default": "CUDA out of memory. Tried to allocate 2.00 GiB."}},
    ),
    _ours(
        "slow",
        "Pictures one after the other, for several seconds",
        _several,
        GROWING,
        PICTURE | {"num_outputs": _count(4, 50)},
        grows=True,
        streams=True,
        predict_s=6.0,
    ),
    _ours("big", "A file as big as you like", _big, URI, {"bytes": _SIZE}),
    _ours("data-uri", "A picture within the answer", lambda ask: Made(Inline(_recipe(ask))), URI),
    _ours("duplicate", "The same URL in three places", _again, _object(image=URI, thumbnails=URIS, cover=URI)),
    _ours("foreign", "A file on somebody else's host", lambda _ask: Made(FOREIGN_URL), URI, {"prompt": PROMPT}),
    _ours("empty", "Succeeds with nothing", lambda _ask: Made(None), URI, {"prompt": PROMPT}),
)

MODELS = (
    Model(
        owner="replicate",
        name="hello-world",
        description="A tiny model that says hello",
        make=lambda ask: Made(f"hello {ask.input['text']}"),
        output={"type": "string"},
        inputs={"text": {"type": "string", "description": "Text to prefix with 'hello '"}},
        required=("text",),
        predict_s=0.05,
        sample={"text": "Alice"},
        run_count=9_000_000,
    ),
    Model(
        owner="replicate",
        name="canary",
        description="A tiny model that streams its own name",
        make=lambda ask: Made(list(f"{ask.input['text']} canary")),
        output=TOKENS,
        inputs={"text": {"type": "string", "default": "hello"}},
        grows=True,
        streams=True,
        predict_s=0.3,
    ),
    Model(
        owner="black-forest-labs",
        name="flux-schnell",
        description="The fastest image generation model tailored for local development and personal use",
        make=_several,
        output=URIS,
        inputs=PICTURE | {"num_outputs": _count(1, 4), "output_format": FORMAT},
        required=("prompt",),
        official=True,
        sample={"prompt": "hills under a quiet sky"},
        run_count=400_000_000,
    ),
    Model(
        owner="stability-ai",
        name="sdxl",
        description="A text-to-image generative AI model that creates beautiful images",
        make=_several,
        output=URIS,
        inputs=PICTURE | {"num_outputs": _count(1, 4)},
        queue_s=0.5,
        predict_s=3.0,
        sample={"prompt": "hills under a quiet sky", "num_outputs": 2},
        run_count=80_000_000,
    ),
    Model(
        owner="meta",
        name="meta-llama-3-8b-instruct",
        description="An 8 billion parameter language model, fine-tuned for chat",
        make=_tokens,
        output=TOKENS,
        inputs={"prompt": PROMPT, "max_tokens": _count(60, 4096)},
        required=("prompt",),
        official=True,
        hides_schema=True,
        grows=True,
        streams=True,
        predict_s=1.5,
        sample={"prompt": "Tell me of a fox"},
        run_count=300_000_000,
    ),
    Model(
        owner="ostris",
        name="flux-dev-lora-trainer",
        description="Fine-tune a picture model: for trainings",
        make=trained,
        output=_object(version={"type": "string"}, weights=URI),
        inputs={"input_images": {"type": "string", "format": "uri"}, "steps": _count(100, 6000)},
        predict_s=5.0,
    ),
    *OWN,
)
