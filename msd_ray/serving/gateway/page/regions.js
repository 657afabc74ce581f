// Regions of a plane: of each the points whose squared distance from its (x, y), plus its weight, is least.

/** The corners of the region of a part within a polygon: what is left of it where all other parts cost more. */
export function cell(regions, part, polygon) {
  const own = regions[part];
  return regions.reduce((left, other) => {
    // |p - own|² + own.weight <= |p - other|² + other.weight, as a·x + b·y <= c
    const [a, b] = [2 * (other.x - own.x), 2 * (other.y - own.y)];
    const c = other.x ** 2 + other.y ** 2 + other.weight - own.x ** 2 - own.y ** 2 - own.weight;
    return other === own ? left : clipped(left, ([x, y]) => c - a * x - b * y);
  }, polygon);
}

/** The part of a convex polygon where inside(point), which is linear, is not negative. */
function clipped(polygon, inside) {
  return polygon.flatMap((point, i) => {
    const before = polygon[(i + polygon.length - 1) % polygon.length];
    const [was, is] = [inside(before), inside(point)];
    const share = was / (was - is);
    const border = [before[0] + share * (point[0] - before[0]), before[1] + share * (point[1] - before[1])];
    if (was >= 0 !== is >= 0) return is >= 0 ? [border, point] : [border];
    return is >= 0 ? [point] : [];
  });
}
