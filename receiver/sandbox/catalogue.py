"""The models of the sandbox, one for each shape of output; names in Replicate's style."""

from receiver.sandbox.models import Ask, Made, Model
from receiver.sandbox.recipes import Recipe

URI = {"type": "string", "format": "uri"}
URIS = {"type": "array", "items": URI}
FORMAT = {"type": "string", "enum": ["webp", "png"], "default": "webp", "description": "Format of the output images"}
SIDE = {"type": "integer", "minimum": 8, "maximum": 2048, "default": 512}
PROMPT = {"type": "string", "description": "What to make"}
SEED = {"type": "integer", "description": "Leave out for another picture each time"}


def _picture(ask: Ask, index: int = 0, kind: str | None = None) -> Recipe:
    told = ask.input
    return Recipe(
        kind or told.get("output_format", "png"),
        (ask.seed + index) % 2**32,
        told.get("width", 512),
        told.get("height", 512),
    )


def _hello(ask: Ask) -> Made:
    return Made(f"hello {ask.input['text']}")


def _flux(ask: Ask) -> Made:
    pictures = [_picture(ask, index) for index in range(ask.input["num_outputs"])]
    return Made(pictures, (f"Using seed: {ask.seed}", f"Generated {len(pictures)} images"))


MODELS = (
    Model(
        owner="replicate",
        name="hello-world",
        description="A tiny model that says hello",
        make=_hello,
        output={"type": "string"},
        inputs={"text": {"type": "string", "description": "Text to prefix with 'hello '"}},
        required=("text",),
        predict_s=0.1,
    ),
    Model(
        owner="black-forest-labs",
        name="flux-schnell",
        description="The fastest image generation model tailored for local development and personal use",
        make=_flux,
        output=URIS,
        inputs={
            "prompt": PROMPT,
            "num_outputs": {"type": "integer", "minimum": 1, "maximum": 4, "default": 1},
            "output_format": FORMAT,
            "seed": SEED,
            "width": SIDE,
            "height": SIDE,
        },
        required=("prompt",),
        official=True,
    ),
    Model(
        owner="sandbox",
        name="image",
        description="One picture",
        make=lambda ask: Made(_picture(ask), (f"Using seed: {ask.seed}",)),
        output=URI,
        inputs={"prompt": PROMPT, "output_format": FORMAT, "seed": SEED, "width": SIDE, "height": SIDE},
        official=True,
    ),
)
