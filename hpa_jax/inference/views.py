"""Test-time augmentation: views of an image for a network.

    views.make("d4")                                    # the 8 flips and rotations
    views.make({"name": "oml", "warp": 0.05})           # fastai's TTA with this model's transforms
    views.make("crops", output_size=512)                # bestfitting's 32
    views.make("tiles", tile=512, overlap=0.25)         # a large image tile by tile

`Views.groups(height, width)` returns groups of views of one output shape, which predict.py scans in
one compiled loop each.  Random views use a key folded from the image's row and the view's number,
so they do not depend on the batch of an image.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hpa_jax.core.errors import InputError, near
from hpa_jax.training import augment
from hpa_jax.training.augment import warp

AGGREGATES = ("mean", "max", "geometric", "mean_logit")
# (keys[N], view number, images[N, H, W, K]) -> images[N, h, w, K]
Show = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Group:
    """Views of one output shape; `weights`[count] are their shares in a mean (all groups: 1).

    plain: number of the view that is the unchanged image (except for its size), -1 if none.
    """

    show: Show
    weights: np.ndarray
    plain: int = -1

    @property
    def count(self) -> int:
        """Number of views."""
        return len(self.weights)


@dataclasses.dataclass(frozen=True)
class Views:
    """A named set of views; its groups may depend on the size of the images."""

    name: str
    options: dict[str, Any]
    build: Callable[..., list[Group]]
    weights: tuple[float, ...] = ()  # one per view, replace the default
    aggregate: str = "mean"  # default aggregate of predict.py

    @property
    def draws(self) -> bool:
        """Whether views are random, seeded by the number of the image's row."""
        return self.name in ("oml", "crops")

    def groups(self, height: int, width: int) -> list[Group]:
        """Return the groups for images of height x width; all weights sum to 1."""
        groups = self.build(height, width, **self.options)
        if self.weights:
            groups = self._weighted(groups)
        total = sum(float(group.weights.sum()) for group in groups)
        return [
            dataclasses.replace(group, weights=np.float32(group.weights / total))
            for group in groups
        ]

    def _weighted(self, groups: list[Group]) -> list[Group]:
        count = sum(group.count for group in groups)
        if len(self.weights) != count or min(self.weights) < 0 or not sum(self.weights):
            raise InputError(
                f"views.weights: {len(self.weights)} numbers for {count} views; needs one per "
                "view, none below 0 and not all 0"
            )
        ends = np.cumsum([group.count for group in groups])[:-1]
        parts = np.split(np.array(self.weights, float), ends)
        return [
            dataclasses.replace(group, weights=part)
            for group, part in zip(groups, parts, strict=True)
        ]

    def count(self, height: int, width: int) -> int:
        """Return the number of forward passes per image."""
        return sum(group.count for group in self.groups(height, width))


def make(name: str | Mapping[str, Any] | Views, **options: Any) -> Views:
    """Return views by a name of `VIEWS`, or by a mapping {"name": ..., option: value}.

    Common options: `weights`, one number per view for means over views; `aggregate`, as
    AGGREGATES (default: "mean", of crops "max").

    Raises:
        InputError: unknown name, option or aggregate.
    """
    if isinstance(name, Views):
        return name
    if not isinstance(name, str):
        options = {**{key: value for key, value in name.items() if key != "name"}, **options}
        name = name.get("name", "identity")
    weights = tuple(options.pop("weights", ()))
    aggregate = options.pop("aggregate", "max" if name == "crops" else "mean")
    if name not in VIEWS:
        raise InputError(f"unknown views {name!r}{near(name, VIEWS)}")
    build, defaults = VIEWS[name]
    for key in options:
        if key not in defaults:
            raise InputError(f"views {name!r} have no option {key!r}{near(key, defaults)}")
    check_aggregate(aggregate)
    return Views(name, {**defaults, **options}, build, weights, aggregate)


def weights(views: str | Mapping[str, Any], side: int) -> np.ndarray:
    """float[V]: the share of each view of images of `side` in a mean; they sum to 1."""
    return np.concatenate([group.weights for group in make(views).groups(side, side)])


def stored(views: str | Mapping[str, Any], side: int) -> Views:
    """Return the views of images of `side` as slices of stored embeddings [N, V, M, E].

    Each view shows [N, 1, M, E] with its weight, so that the head alone gives the outputs of the
    whole network.
    """
    originals = make(views)

    def build(views: int, crops: int, **options: Any) -> list[Group]:
        first, groups = 0, []
        for group in originals.groups(side, side):

            def show(
                keys: jax.Array, view: jax.Array, embeddings: jax.Array, first: int = first
            ) -> jax.Array:
                return jax.lax.dynamic_slice_in_dim(embeddings, first + view, 1, axis=1)

            groups.append(dataclasses.replace(group, show=show))
            first += group.count
        return groups

    options = {**originals.options, "side": side}
    return Views(f"stored {originals.name}", options, build, originals.weights, originals.aggregate)


def check_aggregate(aggregate: str) -> None:
    """Check the name of an aggregate.

    Raises:
        InputError: it is unknown; suggests similar ones.
    """
    if aggregate not in AGGREGATES:
        raise InputError(f"unknown aggregate {aggregate!r}{near(aggregate, AGGREGATES)}")


def _identity(height: int, width: int, output_size: int) -> list[Group]:
    return [Group(lambda keys, view, images: warp.resized(images, output_size), np.ones(1), 0)]


def _d4(height: int, width: int, output_size: int) -> list[Group]:
    def show(keys: jax.Array, view: jax.Array, images: jax.Array) -> jax.Array:
        images = warp.resized(images, output_size)
        return warp.d4(images, jnp.full(images.shape[0], view, jnp.int32))

    return [Group(show, np.ones(8), 0)]


def _oml(
    height: int, width: int, rounds: int, scale: float, beta: float, **transforms: Any
) -> list[Group]:
    """beta * plain + (1 - beta) * mean of 8 * rounds corner views (spec one_more_layer 4.7)."""
    options = augment.resolve("oml", zoom=(1.0, 1.0), **transforms)
    still = {**options, "d4": "none"}

    def map_of(key: jax.Array, corner: jax.Array) -> jax.Array:
        d4_key, map_key = jax.random.split(key)
        # Flips act on the finished view, so that the four corners stay distinct.
        flip = warp.dihedral(jnp.where((corner & 4) > 0, 1, 0))
        turn = warp.dihedral(augment.draw_d4(d4_key, options["d4"]))
        row, column = (corner & 1).astype(jnp.float32), ((corner >> 1) & 1).astype(jnp.float32)
        random_map = augment.draw_map(map_key, still)
        corner_zoom = warp.zoom(scale, row, column)
        return warp.compose(random_map.matrix, corner_zoom, random_map.distortion, turn, flip)

    def show(keys: jax.Array, view: jax.Array, images: jax.Array) -> jax.Array:
        keys = jax.vmap(lambda key: jax.random.fold_in(key, view))(keys)
        maps = jax.vmap(map_of, (0, None))(keys, view % 8)
        warped = warp.resample(images, maps, padding=options["padding"])
        light_keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
        return augment.light(light_keys, warped, options)

    plain = Group(lambda keys, view, images: images, np.full(1, beta), 0)
    corners = Group(show, np.full(8 * rounds, (1.0 - beta) / (8 * rounds)))
    return [plain, corners]


def _crops(
    height: int,
    width: int,
    count: int,
    share: float | tuple[float, float],
    output_size: int,
    d4: bool,
    placement: str,
) -> list[Group]:
    """The whole image and `count` square crops of `share` of its side, each in 8 orientations if
    d4.

    share: of all crops, or the range (low, high) to sample it for each image and crop, as in
    training; the 8 orientations show the same crop.
    placement: "random" (a place for each image and crop) or "grid" (corners first, then centre,
    then a row-major lattice).
    """
    low, high = share if isinstance(share, (tuple, list)) else (share, share)
    if not 0.0 < low <= high <= 1.0:
        raise InputError(f"views.share is {share}; must be in (0, 1], a share of the side")
    if placement not in ("random", "grid"):
        raise InputError(f"views.placement is {placement!r}; known: random, grid")
    size = output_size or height
    places = jnp.asarray(_lattice(count))
    turns = 8 if d4 else 1

    def map_of(key: jax.Array, crop: jax.Array, turn: jax.Array) -> jax.Array:
        drawn = jax.random.uniform(jax.random.fold_in(key, crop), (3,))
        place = drawn[:2] if placement == "random" else places[jnp.maximum(crop - 1, 0)]
        side = jnp.where(crop == 0, 1.0, low + (high - low) * drawn[2])
        return warp.compose(warp.zoom(1.0 / side, place[0], place[1]), warp.dihedral(turn))

    def show(keys: jax.Array, view: jax.Array, images: jax.Array) -> jax.Array:
        maps = jax.vmap(map_of, (0, None, None))(keys, view // turns, view % turns)
        return warp.resample(images, maps, size, "edge", align_corners=False)

    return [Group(show, np.ones((count + 1) * turns), 0)]


def _lattice(count: int) -> np.ndarray:
    """Focus places [count, 2] (row, column): corners, centre, then ever finer lattices."""
    places = [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.5, 0.5)]
    steps = 2
    while len(places) < count:
        ticks = np.linspace(0.0, 1.0, steps + 1)
        places += [(r, c) for r in ticks for c in ticks if (r, c) not in places]
        steps += 1
    return np.array(places[: max(count, 1)], np.float32)


def _scales(height: int, width: int, factors: tuple[float, ...], d4: bool) -> list[Group]:
    """The whole image at several sizes (rounded to multiples of 32), in 8 orientations if d4."""
    if not factors or min(factors) <= 0:
        raise InputError(f"views.factors is {factors}; needs numbers above 0")
    groups = []
    for factor in factors:
        size = max(32, round(height * factor / 32) * 32)
        (group,) = (_d4 if d4 else _identity)(height, width, size)
        groups.append(group if factor == 1.0 else dataclasses.replace(group, plain=-1))
    return groups


def _tiles(height: int, width: int, tile: int, overlap: float, d4: bool) -> list[Group]:
    """Square pieces of `tile` pixels that cover the image, overlapping by at least a share."""
    if not 0.0 <= overlap < 1.0:
        raise InputError(f"views.overlap is {overlap}; must be in [0, 1)")
    if tile > min(height, width):
        raise InputError(f"views.tile is {tile}, larger than the images ({height} x {width})")
    rows, columns = cover(height, tile, overlap), cover(width, tile, overlap)
    corners = jnp.asarray([(row, column) for row in rows for column in columns])
    turns = 8 if d4 else 1

    def show(keys: jax.Array, view: jax.Array, images: jax.Array) -> jax.Array:
        row, column = corners[view // turns]
        shape = (images.shape[0], tile, tile, images.shape[3])
        piece = jax.lax.dynamic_slice(images, (0, row, column, 0), shape)
        return warp.d4(piece, jnp.full(images.shape[0], view % turns, jnp.int32)) if d4 else piece

    return [Group(show, np.ones(len(corners) * turns))]


def cover(side: int, tile: int, overlap: float) -> list[int]:
    """Evenly spaced starts of tiles that cover 0..side, overlapping by at least a share."""
    count = 1 + int(np.ceil((side - tile) / (tile * (1.0 - overlap))))
    return [round(start) for start in np.linspace(0, side - tile, count)]


def _cells(
    height: int, width: int, count: int, side: int, output_size: int, nucleus: int, mask: bool
) -> list[Group]:
    """Square crops of `side` pixels around the `count` brightest nuclei, brightest first.

    output_size: side to which a crop is resized, 0: unchanged.  nucleus: index of the nuclei among
    the network's channels (2 of red, green, blue, yellow).  With fewer nuclei, the next brightest
    places are used; a crop at the border is moved inside.  mask: pixels nearer to another nucleus
    (a place at least half as bright) are 0.

    Raises:
        InputError: images smaller than a crop.
    """
    if not 8 <= side <= min(height, width):
        raise InputError(
            f"views.side is {side}; must be 8 to {min(height, width)} for these images"
        )
    # neighbours may be darker than all that are shown
    spots = count + 16 if mask else count

    def cell(image: jax.Array, view: jax.Array) -> jax.Array:
        corners, centres, brightness = nuclei(image[..., nucleus], spots, side)
        corner = corners[view]
        size = (side, side, image.shape[-1])
        crop = jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), size)
        if not mask:
            return crop
        others = (brightness >= brightness[view] / 2) & (jnp.arange(spots) != view)
        return jnp.where(_nearest(centres, view, others, corner, side)[..., None], crop, 0)

    def show(keys: jax.Array, view: jax.Array, images: jax.Array) -> jax.Array:
        if not 0 <= nucleus < images.shape[-1]:
            raise InputError(f"views.nucleus is {nucleus}; there are {images.shape[-1]} channels")
        return warp.resized(jax.vmap(cell, (0, None))(images, view), output_size)

    return [Group(show, np.ones(count))]


def nuclei(plane: jax.Array, count: int, side: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return corners of crops of `side` around the brightest spots of [H, W], the spots' centres
    (both int32[count, 2]: row, column), and their brightness, float[count]; brightest first.

    A spot is a quarter of the crop wide, like a nucleus in the crops of single-cell networks; crops
    are at least three eighths of their side apart, in rows or columns.
    """
    step = max(1, side // 16)
    coarse = jax.lax.reduce_window(plane, 0.0, jax.lax.add, (step, step), (step, step), "VALID")
    spot = jax.lax.reduce_window(coarse, 0.0, jax.lax.add, (4, 4), (1, 1), "SAME")
    # A window of four starts one before its place.
    centres = [jnp.arange(places) * step + step for places in spot.shape]
    rows, columns = (
        jnp.clip(centre - side // 2, 0, pixels - side)
        for centre, pixels in zip(centres, plane.shape, strict=True)
    )
    apart = 3 * side / 8

    def brightest(left: jax.Array, _: None) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        row, column = jnp.unravel_index(left.argmax(), left.shape)
        at = jnp.stack([rows[row], columns[column]])
        near = (abs(rows - at[0]) < apart)[:, None] & (abs(columns - at[1]) < apart)[None]
        centre = jnp.stack([centres[0][row], centres[1][column]])
        return jnp.where(near, -jnp.inf, left), (at, centre, left.max())

    corners, middles, brightness = jax.lax.scan(brightest, spot, None, length=count)[1]
    return corners.astype(jnp.int32), middles.astype(jnp.int32), brightness


def _nearest(
    centres: jax.Array, own: jax.Array, others: jax.Array, corner: jax.Array, side: int
) -> jax.Array:
    """bool[side, side]: pixels of the crop at `corner` that no other centre is nearer to."""
    pixels = jnp.stack(jnp.mgrid[:side, :side], -1) + corner
    distance = jnp.square(pixels - centres[own]).sum(-1)

    def with_one(kept: jax.Array, one: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        centre, counts = one
        return kept & ~(counts & (jnp.square(pixels - centre).sum(-1) < distance)), None

    return jax.lax.scan(with_one, jnp.ones((side, side), bool), (centres, others))[0]


_OML_TRANSFORMS = {
    key: augment.PRESETS["oml"].get(key, augment.OPTIONS[key])
    for key in augment.OPTIONS
    if key in ("p_affine", "rotate", "warp", "brightness", "contrast", "p_lighting")
    or key
    in ("d4", "perspective", "corner_shift", "p_perspective", "jitter", "p_jitter", "padding")
}

VIEWS: dict[str, tuple[Callable[..., list[Group]], dict[str, Any]]] = dict(
    identity=(_identity, dict(output_size=0)),
    d4=(_d4, dict(output_size=0)),
    # Four calls of fastai's TTA: 32 random passes, and 4 identical plain ones done once.
    oml=(_oml, dict(rounds=4, scale=1.35, beta=0.4, **_OML_TRANSFORMS)),
    # bestfitting: 8 D4 x (the whole + 3 random crops of 512 of 768), combined by the maximum.
    crops=(
        _crops,
        dict(count=3, share=2.0 / 3.0, output_size=0, d4=True, placement="random"),
    ),
    scales=(_scales, dict(factors=(0.75, 1.0, 1.25), d4=False)),
    # Single cells of a field of view, for networks trained on those.
    cells=(_cells, dict(count=8, side=224, output_size=0, nucleus=2, mask=False)),
    tiles=(_tiles, dict(tile=512, overlap=0.25, d4=False)),
)
