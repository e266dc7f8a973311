"""Augmentation on the device: one function from a flat table of options and presets.

    augmentation = augment.preset("oml")
    images, labels = augmentation(key, images, labels)      # inside the jitted training step

images: [N, H, W, K] uint8, or float in [0, 1], before normalisation; returns floats in [0, 1].
labels: [N, C], returned as float32.
All geometry is composed per image into one map and sampled once (warp.py); pixel values follow
(pixels.py), mixtures of images last.  Each image has a key, folded from the step's key and its
place in the batch.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hpa_jax.core import own_code
from hpa_jax.core.errors import InputError, near
from hpa_jax.training.augment import pixels, policies, warp

Augmentation = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]

CHANNELS = ("red", "green", "blue", "yellow")
RANGE = (-1.0, 2.0)  # of a user function's images; noise and gains may leave 0..1

# All options, switched off.  "U(a, b)" is uniform; "share" is a share of the image's side.
OPTIONS: dict[str, Any] = dict(
    # geometry
    d4="none",  # none | uniform (each 1/8) | fastai (k of 0..8: the identity has 2/9)
    p_affine=1.0,  # chance of each of: rotate, zoom, shift, shear, squish, warp
    rotate=0.0,  # degrees, U(-rotate, rotate)
    zoom=(1.0, 1.0),  # U(low, high) about a random focus
    shift=0.0,  # share, U(-shift, shift) for x and y
    shear=0.0,  # tangent, U(-shear, shear) for x and y
    squish=(1.0, 1.0),  # width alone, U(low, high)
    warp=0.0,  # fastai's symmetric warp: four magnitudes U(-warp, warp)
    perspective=0.0,  # all four corners moved by U(-perspective, perspective), both ways
    corner_shift=0.0,  # all four corners moved by this constant (as in One More Layer's call)
    p_perspective=1.0,  # chance of perspective, and of corner_shift
    jitter=0.0,  # each pixel's source moved by U(-jitter, jitter), normalised units
    p_jitter=1.0,
    crop=(1.0, 1.0),  # side of a square crop at a random place, share, U(low, high)
    output_size=0,  # side of the output in pixels; 0: that of the input
    padding="zeros",  # zeros | reflect | edge | wrap
    policies=False,  # pudae's 25, after D4 and instead of the geometry above
    scale_zooms=False,  # pudae's RandomScale as a zoom; in their run the final resize undid it
    # pixel values
    lighting="logit",  # logit (fastai) | linear (dm_pix)
    brightness=0.0,  # logit: add logit(U(.5(1-b), .5(1+b))); linear: add U(-b, b)
    contrast=0.0,  # logit: times exp(U(ln(1-c), -ln(1-c))); linear: times U(1-c, 1+c)
    p_lighting=1.0,  # chance of brightness, and of contrast
    per_channel=False,  # lighting sampled for each channel separately
    protein_gain=0.0,  # green channel times U(1-g, 1+g): varies the stain, not the markers
    noise=0.0,  # standard deviation of normal noise
    cutout=0.0,  # side of a black square, share
    p_cutout=1.0,
    drop=(),  # (channel, chance) pairs: the channel is blanked
    # several images, labels
    mixup=0.0,  # alpha of Beta(alpha, alpha)
    sample_pairing=0.0,  # chance per image
    blank_protein=0.0,  # chance per batch ("Mortidomentation")
)

PRESETS: dict[str, dict[str, Any]] = dict(
    none=dict(),
    d4=dict(d4="uniform"),
    # fastai's get_transforms as One More Layer called it (spec one_more_layer 4.6); its recipes
    # change zoom, lighting, warp and p_lighting from phase to phase.
    oml=dict(
        d4="fastai",
        p_affine=0.9,
        rotate=180.0,
        zoom=(1.0, 1.2),
        brightness=0.2,
        contrast=0.2,
        p_lighting=0.65,
    ),
    # A crop of 512..768 of 768 pixels at a random place, resized, then D4 (bestfitting A).
    bestfitting=dict(d4="uniform", crop=(2.0 / 3.0, 1.0)),
    # D4, then one of 25 policies found by search (bestfitting_pudae B).
    pudae=dict(d4="uniform", policies=True),
    # Small networks on small images.  Users' images may lack the yellow channel.
    demo=dict(
        d4="uniform",
        zoom=(0.95, 1.2),
        shift=0.05,
        lighting="linear",
        brightness=0.03,
        contrast=0.2,
        drop=(("yellow", 0.15),),
    ),
)


def preset(
    name: str | Mapping[str, Any],
    *,
    channels: tuple[str, ...] | None = None,
    **differences: Any,
) -> Augmentation:
    """Return the augmentation of a preset, with differences from it.

    Args:
      name: a name of PRESETS, or a mapping of options with an optional "name" (default "none");
        or "my_file.py:function", with its options as a mapping: function(key, images, labels,
        **options) -> (images, labels), as below, images already in [0, 1].
      channels: names of the K channels; default: the first K of red, green, blue, yellow.
      differences: options of OPTIONS.

    Returns:
      fn(key, images[N, H, W, K], labels[N, C]) -> (images[N, h, w, K] in [0, 1], labels float32);
      input images are uint8 or float in [0, 1].

    Raises:
        InputError: unknown preset, option or value.
    """
    options = resolve(name, **differences)
    if "function" in options:
        return _user_function(options)

    def augment(
        key: jax.Array, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        names = channels or CHANNELS[: images.shape[-1]]
        geometry_key, value_key, mix_key = jax.random.split(key, 3)
        labels = labels.astype(jnp.float32)
        images = warp.unit_range(_geometry(geometry_key, images, options))
        images = _values(value_key, images, options, names)
        return _mix(mix_key, images, labels, options, names)

    return augment


def random_view(
    key: jax.Array, embeddings: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Choose a random stored view of each row: embeddings [N, V, M, E] -> [N, 1, M, E]."""
    views = jax.random.randint(key, (len(embeddings),), 0, embeddings.shape[1])
    return jnp.take_along_axis(embeddings, views[:, None, None, None], axis=1), labels


def _user_function(options: Mapping[str, Any]) -> Augmentation:
    """The augmentation by a user function."""
    rest = {key: v for key, v in options.items() if key not in ("function", "output_size")}
    function = own_code.load(options["function"])

    def augment(
        key: jax.Array, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        given = warp.unit_range(images), labels.astype(jnp.float32)
        found = function(key, *given, **rest)
        shapes = [value.shape for value in given]
        if not isinstance(found, tuple) or [jnp.shape(value) for value in found] != shapes:
            returned = jax.tree.map(jnp.shape, found)
            raise InputError(
                f"{options['function']}: returned {returned}, not (images, labels) of shapes "
                f"{shapes[0]} and {shapes[1]}"
            )
        if isinstance(found[0], jax.core.Tracer):
            check_range(*given)
        return found[0], found[1].astype(jnp.float32)

    def check_range(images: jax.Array, labels: jax.Array) -> None:
        """Values of a compiled step are not known, so the function is tried on grey noise."""
        with jax.ensure_compile_time_eval():
            key = jax.random.key(0)
            grey = jax.random.uniform(key, (2, *images.shape[1:]))
            found = function(key, grey, jnp.zeros((2, *labels.shape[1:])), **rest)
            low, high = float(found[0].min()), float(found[0].max())
        if not (RANGE[0] <= low and high <= RANGE[1]):
            raise InputError(
                f"{options['function']}: made images of {low:.3g}..{high:.3g} from images of 0..1; "
                "they must stay in about 0..1 (normalisation follows)"
            )

    return augment


def resolve(name: str | Mapping[str, Any], **differences: Any) -> dict[str, Any]:
    """Return all options of a preset with differences, checked.

    Raises:
        InputError: an unknown preset or option, or a value out of range.
    """
    if not isinstance(name, str):
        differences = {**{k: v for k, v in name.items() if k != "name"}, **differences}
        name = name.get("name", "none")
    if own_code.is_reference(name):
        own_code.load(name)  # fails here, not in the step
        return {**differences, "function": name, "output_size": 0}
    if name not in PRESETS:
        raise InputError(f"unknown augmentation {name!r}{near(name, PRESETS)}")
    for key in differences:
        if key not in OPTIONS:
            raise InputError(f"augmentation has no option {key!r}{near(key, OPTIONS)}")
    options = {**OPTIONS, **PRESETS[name], **differences}
    for key in ("zoom", "squish", "crop"):
        options[key] = tuple(float(value) for value in options[key])
    _check(options)
    return options


def _check(options: dict[str, Any]) -> None:
    choices = dict(
        d4=("none", "uniform", "fastai"),
        padding=warp.PADDINGS,
        lighting=("logit", "linear"),
    )
    for key, known in choices.items():
        if options[key] not in known:
            raise InputError(f"augmentation.{key} is {options[key]!r}; known: {', '.join(known)}")
    for key, value in options.items():
        chance = key.startswith("p_") or key in ("sample_pairing", "blank_protein")
        if chance and not 0.0 <= value <= 1.0:
            raise InputError(f"augmentation.{key} is {value}; a chance must be in 0..1")
    for key in ("zoom", "squish", "crop"):
        low, high = options[key]
        if not 0.0 < low <= high:
            raise InputError(f"augmentation.{key} is {low}, {high}; needs 0 < low <= high")
    if options["policies"] and _resamples(options):
        raise InputError("augmentation.policies can't be combined with rotate, zoom, crop, ...")
    if not 0.0 <= options["contrast"] < 1.0 or not 0.0 <= options["brightness"] < 1.0:
        raise InputError("augmentation.brightness and .contrast must lie in [0, 1)")


def output_size(name: str | Mapping[str, Any]) -> int:
    """Return the output side of a preset with differences, in pixels; 0: that of the input."""
    return int(resolve(name)["output_size"])


def image_keys(key: jax.Array, count: int) -> jax.Array:
    """Return one key per image, [count]: folded from the step's key and the place in the batch."""
    return jax.vmap(lambda place: jax.random.fold_in(key, place))(jnp.arange(count))


# --- geometry ---------------------------------------------------------------------------------


def _geometry(key: jax.Array, images: jax.Array, options: dict[str, Any]) -> jax.Array:
    size = options["output_size"] or images.shape[1]
    keys = image_keys(key, len(images))
    if options["policies"]:
        turns = jax.vmap(lambda key: draw_d4(jax.random.fold_in(key, 1), options["d4"]))(keys)
        return warp.resized(policies.apply(keys, images, turns, options["scale_zooms"]), size)
    if not _resamples(options) and size == images.shape[1]:
        if options["d4"] == "none":
            return images
        return warp.d4(images, jax.vmap(lambda key: draw_d4(key, options["d4"]))(keys))
    if options["d4"] != "none" and images.shape[1] != images.shape[2]:
        raise InputError(f"D4 needs square images, not {images.shape[1]} x {images.shape[2]}")
    corners = options["crop"] == (1.0, 1.0) and size == images.shape[1]
    draws = jax.vmap(lambda key: draw_map(key, options))(keys)
    if options["jitter"]:
        return _jittered(keys, images, draws, options, corners)
    maps = jax.vmap(warp.compose)(draws.matrix, draws.distortion)
    return warp.resample(images, maps, options["output_size"], options["padding"], corners)


def _jittered(
    keys: jax.Array, images: jax.Array, draws: "Map", options: dict[str, Any], corners: bool
) -> jax.Array:
    """Geometry with random shifts of each pixel's source, between distortion and affine map."""
    size = options["output_size"]
    base = warp.grid(*((size, size) if size else images.shape[1:3]), corners)
    packs = images.dtype == jnp.uint8 and images.shape[-1] <= 4

    def read(way: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        def read_image(key: jax.Array, image: jax.Array, drawn: Map) -> jax.Array:
            noise = jax.random.uniform(jax.random.split(key, 3)[2], base.shape, minval=-1.0)
            where = warp.projective(base, drawn.distortion) + drawn.jitter * noise
            return way(image, warp.affine(where, drawn.matrix), options["padding"], corners)

        return jax.vmap(read_image)

    def plain(keys: jax.Array, images: jax.Array, draws: Map) -> jax.Array:
        return read(warp.sample)(keys, warp.unit_range(images), draws)

    tpu = read(warp.sample_packed) if packs else plain
    return jax.lax.platform_dependent(keys, images, draws, tpu=tpu, default=plain)


def _resamples(options: dict[str, Any]) -> bool:
    still = ("rotate", "shift", "shear", "warp", "perspective", "corner_shift", "jitter")
    return any(options[key] != 0.0 for key in still) or any(
        tuple(options[key]) != (1.0, 1.0) for key in ("zoom", "squish", "crop")
    )


def draw_d4(key: jax.Array, kind: str) -> jax.Array:
    """Return a random element 0..7 of D4, by the option's kind ("none": the identity)."""
    if kind == "none":
        return jnp.int32(0)
    # fastai draws k of 0..8; its eighth element has no bit set, so it is the identity again.
    return jax.random.randint(key, (), 0, 9 if kind == "fastai" else 8) & 7


class _Draws:
    """Stream of uniform numbers of one image, from a single call of the generator."""

    def __init__(self, key: jax.Array) -> None:
        self._numbers = iter(jax.random.uniform(key, (32,)))

    def between(self, low: float, high: float) -> jax.Array:
        """Return a sample of U(low, high)."""
        return low + (high - low) * next(self._numbers)

    def happens(self, p: float) -> jax.Array:
        """Return True with chance p."""
        return next(self._numbers) < p


class Map(NamedTuple):
    """A random map of one image from output to input: distortion, jitter, then the affine part."""

    matrix: jax.Array  # [3, 3] affine: crop, flips, rotation, zoom, shift, shear, squish
    distortion: jax.Array  # [3, 3] projective: warp, perspective, corner_shift
    jitter: jax.Array  # maximum shift of each pixel's source, in normalised units


def draw_map(key: jax.Array, options: dict[str, Any]) -> Map:
    """Return the random map of one image by the options, in fastai's order."""
    number_key, d4_key, _ = jax.random.split(key, 3)  # the third is for the jitter's noise
    draws = _Draws(number_key)
    distortion = jnp.eye(3)
    if options["warp"]:
        m = jnp.stack([draws.between(-options["warp"], options["warp"]) for _ in range(4)])
        m = jnp.where(draws.happens(options["p_affine"]), m, 0.0)
        distortion = warp.homography(warp.symmetric_warp_corners(m))
    if options["perspective"]:
        limit = options["perspective"]
        moves = jnp.stack([draws.between(-limit, limit) for _ in range(8)]).reshape(4, 2)
        moves = jnp.where(draws.happens(options["p_perspective"]), moves, 0.0)
        distortion = warp.compose(warp.homography(warp.CORNERS + moves), distortion)
    if options["corner_shift"]:
        # Eight equal numbers: the homography is a shift.
        moved = jnp.where(draws.happens(options["p_perspective"]), options["corner_shift"], 0.0)
        distortion = warp.compose(warp.shift(-moved, -moved), distortion)
    jitter = jnp.float32(0.0)
    if options["jitter"]:
        jitter = jnp.where(draws.happens(options["p_jitter"]), options["jitter"], 0.0)
    return Map(_matrix(d4_key, options, draws), distortion, jitter)


def _matrix(d4_key: jax.Array, options: dict[str, Any], draws: _Draws) -> jax.Array:
    """The composed affine part [3, 3]: crop, flips, rotation, zoom, shift, shear, squish."""
    matrix = jnp.eye(3)
    if options["crop"] != (1.0, 1.0):
        matrix = warp.zoom(
            1.0 / draws.between(*options["crop"]), draws.between(0.0, 1.0), draws.between(0.0, 1.0)
        )
    if options["d4"] != "none":
        matrix = warp.compose(matrix, warp.dihedral(draw_d4(d4_key, options["d4"])))

    def then(drawn: jax.Array) -> jax.Array:
        kept = jnp.where(draws.happens(options["p_affine"]), drawn, jnp.eye(3))
        return warp.compose(matrix, kept)

    def both(limit: float) -> tuple[jax.Array, jax.Array]:
        return draws.between(-limit, limit), draws.between(-limit, limit)

    if options["rotate"]:
        matrix = then(warp.rotation(draws.between(-options["rotate"], options["rotate"])))
    if options["zoom"] != (1.0, 1.0):
        matrix = then(
            warp.zoom(
                draws.between(*options["zoom"]), draws.between(0.0, 1.0), draws.between(0.0, 1.0)
            )
        )
    if options["shift"]:
        # A share of the side is twice as much in normalised units.
        matrix = then(warp.shift(*both(2.0 * options["shift"])))
    if options["shear"]:
        matrix = then(warp.shear(*both(options["shear"])))
    if options["squish"] != (1.0, 1.0):
        matrix = then(warp.squish(draws.between(*options["squish"])))
    return matrix


# --- pixel values -----------------------------------------------------------------------------


def _values(
    key: jax.Array, images: jax.Array, options: dict[str, Any], names: tuple[str, ...]
) -> jax.Array:
    count, channels = len(images), images.shape[-1]
    keys = image_keys(key, count)
    images = light(keys, images, options)
    # Gain, cutout's row, column and chance, and one number per channel for dropping.
    rest_keys = jax.vmap(lambda key: jax.random.fold_in(key, 2))(keys)
    rest = jax.vmap(lambda key: jax.random.uniform(key, (4 + channels,)))(rest_keys)
    if options["protein_gain"]:
        factor = jnp.ones((count, channels))
        place = _channel(names, "green")
        factor = factor.at[:, place].add(options["protein_gain"] * (2.0 * rest[:, 0] - 1.0))
        images = pixels.gain(images, factor)
    if options["noise"]:
        noise_keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
        images = pixels.noise(images, noise_keys, options["noise"])
    if options["cutout"]:
        # A square centred far outside the image has no effect.
        row = jnp.where(rest[:, 3] < options["p_cutout"], rest[:, 1], -9.0)
        images = pixels.cutout(images, row, rest[:, 2], options["cutout"])
    for channel, chance in options["drop"]:
        if channel in names:
            place = _channel(names, channel)
            kept = (rest[:, 4 + place] >= chance).astype(images.dtype)
            images = images.at[..., place].multiply(kept[:, None, None])
    return images


def light(keys: jax.Array, images: jax.Array, options: dict[str, Any]) -> jax.Array:
    """Vary brightness and contrast of images[N, H, W, K] randomly, with one key per image."""
    if not options["brightness"] and not options["contrast"]:
        return images
    u = jax.vmap(lambda key: jax.random.uniform(key, (2 * images.shape[-1] + 2,)))(keys)
    channels = images.shape[-1]
    count = channels if options["per_channel"] else 1
    first, second = u[:, :count], u[:, channels : channels + count]
    bright = u[:, -2:-1] < options["p_lighting"]
    contrasted = u[:, -1:] < options["p_lighting"]
    b, c = options["brightness"], options["contrast"]
    if options["lighting"] == "linear":
        add = jnp.where(bright, b * (2.0 * first - 1.0), 0.0)
        multiply = jnp.where(contrasted, 1.0 + c * (2.0 * second - 1.0), 1.0)
        return pixels.linear_shift(images, add, multiply)
    share = 0.5 * (1.0 - b) + b * first
    add = jnp.where(bright, jnp.log(share) - jnp.log1p(-share), 0.0)
    multiply = jnp.where(contrasted, jnp.exp(jnp.log1p(-c) * (1.0 - 2.0 * second)), 1.0)
    return pixels.logit_shift(images, add, multiply)


def _channel(names: tuple[str, ...], name: str) -> int:
    if name not in names:
        raise InputError(f"augmentation needs the {name} channel; channels are {', '.join(names)}")
    return names.index(name)


# --- several images -------------------------------------------------------------------------


def _mix(
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    options: dict[str, Any],
    names: tuple[str, ...],
) -> tuple[jax.Array, jax.Array]:
    blank_key, pair_key, mixup_key = jax.random.split(key, 3)
    if options["blank_protein"]:
        place = _channel(names, "green")
        images, labels = pixels.blank_protein(
            blank_key, images, labels, options["blank_protein"], place
        )
    if options["sample_pairing"]:
        images, labels = pixels.sample_pairing(pair_key, images, labels, options["sample_pairing"])
    if options["mixup"]:
        images, labels = pixels.mixup(mixup_key, images, labels, options["mixup"])
    return images, labels
