"""Ray casting of a room with spheres and boxes under one lamp: for each pixel its colour, class, depth and normal.

Lengths are metres. Axes are left-handed: x right, y up, z ahead; the world's start at the middle of the floor. Vectors
are columns, (3, n).
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

CLASSES = ("floor", "ceiling", "wall", "sphere", "box", "pillar", "rug")
FLOOR, CEILING, WALL, SPHERE, BOX, PILLAR, RUG = range(len(CLASSES))
VOID = -1  # label of a pixel without a class
NEAREST = 1e-6  # a hit closer than this is the surface that the ray starts from
LIFT = 1e-3  # metres above its surface at which a ray to the lamp starts
AMBIENT, SHADOW = 0.25, 0.35  # light from everywhere; what is left of the lamp's light in its shadow

Vector = tuple[float, float, float]


class View(NamedTuple):
    """What a camera sees.

    Attributes:
        image: (3, H, W) uint8.
        labels: (H, W) int8, an index into CLASSES; VOID: none.
        depth: (H, W) float32, metres along the camera's axis; 0: not measured.
        normals: (3, H, W) float32 of unit length, in the camera's frame (x right, y up, z ahead); zero: not measured.
    """

    image: np.ndarray
    labels: np.ndarray
    depth: np.ndarray
    normals: np.ndarray


class Shape(Protocol):
    """A solid that stands in a room."""

    @property
    def label(self) -> int:
        """Its class."""

    @property
    def color(self) -> Vector:
        """Red, green and blue in 0..1."""

    def distance(self, origins: np.ndarray, rays: np.ndarray) -> np.ndarray:
        """(n,) how many lengths of each ray from its origin to the surface; inf: it misses.

        Args:
            origins: (3, n) or (3, 1), outside of the solid.
            rays: (3, n) directions of any length.
        """

    def normal(self, points: np.ndarray) -> np.ndarray:
        """(3, n) outward unit normals at points of the surface."""


@dataclass(frozen=True)
class Sphere:
    """A ball; see :class:`Shape`."""

    center: Vector
    radius: float
    color: Vector
    label: int = SPHERE

    def distance(self, origins: np.ndarray, rays: np.ndarray) -> np.ndarray:
        """See :class:`Shape`."""
        offsets = origins - column(self.center)
        a, b = (rays * rays).sum(0), (offsets * rays).sum(0)
        root = b * b - a * ((offsets * offsets).sum(0) - self.radius**2)
        found = (-b - np.sqrt(np.maximum(root, 0))) / a
        return np.where((root > 0) & (found > NEAREST), found, np.inf)

    def normal(self, points: np.ndarray) -> np.ndarray:
        """See :class:`Shape`."""
        return (points - column(self.center)) / self.radius


@dataclass(frozen=True)
class Box:
    """A cuboid with half its sides, turned about the vertical by an angle in radians; see :class:`Shape`."""

    center: Vector
    half: Vector
    color: Vector
    label: int = BOX
    angle: float = 0.0

    def distance(self, origins: np.ndarray, rays: np.ndarray) -> np.ndarray:
        """See :class:`Shape`."""
        back = about_vertical(-self.angle)
        near, far = slabs(back @ (origins - column(self.center)), back @ rays, column(self.half))
        return np.where((near <= far) & (near > NEAREST), near, np.inf)

    def normal(self, points: np.ndarray) -> np.ndarray:
        """See :class:`Shape`."""
        inside = about_vertical(-self.angle) @ (points - column(self.center))
        return about_vertical(self.angle) @ face_normals(inside / column(self.half))


@dataclass(frozen=True)
class Room:
    """Floor, ceiling and four walls, seen from within, and a rug on the floor.

    Args:
        width: along x.
        height: along y.
        length: along z.
        colors: of floor, ceiling, walls and rug.
        rug: (x, z, half its side along x, along z).
    """

    width: float
    height: float
    length: float
    colors: dict[int, Vector]
    rug: tuple[float, float, float, float]

    def distance(self, origins: np.ndarray, rays: np.ndarray) -> np.ndarray:
        """(n,) how many lengths of each ray from its origin, inside of the room, to the wall that it meets."""
        return slabs(origins - self._center, rays, self._half)[1]

    def normal(self, points: np.ndarray) -> np.ndarray:
        """(3, n) unit normals into the room."""
        return -face_normals((points - self._center) / self._half)

    def labels(self, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """(n,) int8, the class at points of its surface."""
        x, z, half_x, half_z = self.rug
        on_rug = (np.abs(points[0] - x) < half_x) & (np.abs(points[2] - z) < half_z)
        up = normals[1]
        return np.where(up > 0.5, np.where(on_rug, RUG, FLOOR), np.where(up < -0.5, CEILING, WALL)).astype(np.int8)

    @property
    def _half(self) -> np.ndarray:
        return column((self.width / 2, self.height / 2, self.length / 2))

    @property
    def _center(self) -> np.ndarray:
        return column((0.0, self.height / 2, 0.0))


@dataclass(frozen=True)
class Camera:
    """A pinhole with square images.

    Args:
        position: inside of the room, outside of its objects.
        yaw: to the right, in radians.
        pitch: upwards, in radians.
        field_of_view: from edge to edge, in degrees.
    """

    position: Vector
    yaw: float
    pitch: float
    field_of_view: float

    @property
    def rotation(self) -> np.ndarray:
        """(3, 3), from the camera's frame to the world's."""
        cos, sin = np.cos(self.pitch), np.sin(self.pitch)
        return about_vertical(self.yaw) @ np.array([[1, 0, 0], [0, cos, sin], [0, -sin, cos]])

    def rays(self, size: int) -> np.ndarray:
        """(3, size * size), through the middle of each pixel, row by row, in the camera's frame; z is 1."""
        edge = np.tan(np.deg2rad(self.field_of_view) / 2)
        middles = edge * (2 * (np.arange(size) + 0.5) / size - 1)
        y, x = np.meshgrid(-middles, middles, indexing="ij")
        return np.stack([x.ravel(), y.ravel(), np.ones(size * size)])


@dataclass(frozen=True)
class Scene:
    """A room with what is in it.

    Args:
        room: the room.
        objects: what stands in it.
        camera: looks at it.
        lamp: position of a point of light inside of the room.
        checks: per metre, the number of squares of the checked pattern on all surfaces but the ceiling.
        texture: how much darker every other square is, in 0..1.
        noise: standard deviation of the sensor's noise, where white is 1.
    """

    room: Room
    objects: tuple[Shape, ...]
    camera: Camera
    lamp: Vector
    checks: float = 1.0
    texture: float = 0.0
    noise: float = 0.0


def render(scene: Scene, size: int, rng: np.random.Generator) -> View:
    """The view of the scene's camera, ``size`` pixels high and wide; noise is drawn from ``rng``."""
    camera = scene.camera
    rays, position = camera.rotation @ camera.rays(size), column(camera.position)
    # The z of a ray is 1 in the camera's frame, so its lengths are metres of depth.
    depth, owner = scene.room.distance(position, rays), np.full(size * size, -1)
    for number, shape in enumerate(scene.objects):
        found = shape.distance(position, rays)
        nearer = found < depth
        depth, owner = np.where(nearer, found, depth), np.where(nearer, number, owner)
    points = position + depth * rays
    normals = scene.room.normal(points)
    labels = scene.room.labels(points, normals)
    colors = np.array([scene.room.colors.get(label, (0, 0, 0)) for label in range(len(CLASSES))], dtype=float).T
    colors = colors[:, labels]
    for number, shape in enumerate(scene.objects):
        seen = owner == number
        normals[:, seen], labels[seen] = shape.normal(points[:, seen]), shape.label
        colors[:, seen] = column(shape.color)
    light = _lit(scene, points, normals) * _pattern(scene, points, labels)
    noisy = colors * light + scene.noise * rng.standard_normal(colors.shape)
    square = (size, size)
    return View(
        (255 * np.clip(noisy, 0, 1) ** (1 / 1.6)).round().astype(np.uint8).reshape(3, *square),  # gamma: bright shadows
        labels.reshape(square),
        depth.astype(np.float32).reshape(square),
        (camera.rotation.T @ normals).astype(np.float32).reshape(3, *square),
    )


def with_voids(view: View, reach: float = 6.5, dark: float = 60) -> View:
    """The view as a depth camera would measure it: without depth and normals on surfaces that are far or dark, nor,
    as without a class, beside outlines, where depth jumps.

    Args:
        view: of a scene.
        reach: metres of depth that are measured at most.
        dark: mean of red, green and blue, in 0..255, below which nothing is measured.
    """
    outline = np.zeros(view.depth.shape, dtype=bool)
    steps = np.log(view.depth)
    down, right = np.abs(np.diff(steps, axis=0)) > 0.15, np.abs(np.diff(steps, axis=1)) > 0.15
    outline[1:] |= down
    outline[:-1] |= down
    outline[:, 1:] |= right
    outline[:, :-1] |= right
    lost = outline | (view.depth > reach) | (view.image.mean(0) < dark)
    return View(
        view.image,
        np.where(outline, np.int8(VOID), view.labels),
        np.where(lost, np.float32(0), view.depth),
        np.where(lost, np.float32(0), view.normals),
    )


def _lit(scene: Scene, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """(n,) the light that falls on points, by Lambert's law, with hard shadows."""
    starts = points + LIFT * normals
    to_lamp = column(scene.lamp) - starts  # one length of this ray leads to the lamp
    shadowed = np.zeros(points.shape[1], dtype=bool)
    for shape in scene.objects:
        shadowed |= shape.distance(starts, to_lamp) < 1
    far = np.sqrt((to_lamp * to_lamp).sum(0))
    direct = np.maximum((to_lamp * normals).sum(0) / far, 0) * np.minimum(1, 4 / far**1.2)
    return AMBIENT + (1 - AMBIENT) * direct * np.where(shadowed, SHADOW, 1.0)


def _pattern(scene: Scene, points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n,) 1, or less where the pattern is dark."""
    # Half a square aside: a face at a border between squares, as the floor at 0 would be, would flicker by rounding.
    odd = np.floor(points * scene.checks + 0.5).sum(0) % 2
    return 1 - scene.texture * odd * (labels != CEILING)


def slabs(origins: np.ndarray, rays: np.ndarray, half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) where rays enter and leave a box around 0 with half sides ``half`` (3, 1); a miss leaves first."""
    inverse = 1 / np.where(rays == 0, 1e-12, rays)  # a ray along a face meets it nowhere: very far away
    middle, reach = -origins * inverse, np.abs(half * inverse)
    return (middle - reach).max(0), (middle + reach).min(0)


def face_normals(points: np.ndarray) -> np.ndarray:
    """(3, n) outward normals of the cube with corners at -1 and 1, at points of its surface."""
    face, each = np.abs(points).argmax(0), np.arange(points.shape[1])
    normals = np.zeros_like(points)
    normals[face, each] = np.sign(points[face, each])
    return normals


def about_vertical(angle: float) -> np.ndarray:
    """(3, 3) rotation about y, which turns z towards x."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])


def column(vector: Vector) -> np.ndarray:
    """(3, 1)."""
    return np.array(vector, dtype=float)[:, None]
