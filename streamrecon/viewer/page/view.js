// Where one looks: the point that all three slices go through, and the part of the volume that is seen, which they share.

import { Signal } from './signal.js'

export const AXES = ['z', 'y', 'x']

// What a slice at right angles to an axis has across and down.
export const PLANES = {
  z: { name: 'Axial', across: 'x', down: 'y' },
  y: { name: 'Coronal', across: 'x', down: 'z' },
  x: { name: 'Sagittal', across: 'y', down: 'z' },
}

export const AXIS_NAMES = { z: 'slice', y: 'y', x: 'x' }

const MOST = 64 // zoom

const bounded = (value, low, high) => Math.min(high, Math.max(low, value))

export class View {
  full = new Signal(null) // { z, y, x }: voxels of the full volume
  point = new Signal({ z: 0, y: 0, x: 0 })
  seen = new Signal({ zoom: 1, z: 0, y: 0, x: 0 }) // the middle of what is seen, and how large it is
  active = new Signal('z')
  alone = new Signal('')

  // A volume of this shape is looked at: from its middle, or where it was looked at before, if it is another region of the same.
  resize([z, y, x], same) {
    const before = this.full.value
    if (before && before.z === z && before.y === y && before.x === x) return
    const [full, point, seen] = [{ z, y, x }, this.point.value, this.seen.value]
    this.full.value = full
    if (!before || !same || (seen.zoom === 1 && !AXES.some((axis) => point[axis] !== Math.floor(before[axis] / 2)))) {
      this.point.value = { z: Math.floor(z / 2), y: Math.floor(y / 2), x: Math.floor(x / 2) }
      this.#choose()
      this.fit()
      return
    }
    // Regions have the rotation axis in their middle. Where one went is kept, whatever whole voxel or edge is nearest to it.
    const chosen = this.#chosen
    this.go(Object.fromEntries(AXES.map((axis) => [axis, axis === 'z' ? point.z : chosen[axis] + (full[axis] - 1) / 2])))
    this.#chosen = chosen
    const moved = (axis) => (axis === 'z' ? seen.z : seen[axis] + (full[axis] - before[axis]) / 2)
    if (seen.zoom === 1) this.fit()
    else this.#see({ z: moved('z'), y: moved('y'), x: moved('x'), zoom: bounded((seen.zoom * x) / before.x, 1, MOST) })
  }

  #chosen = { y: 0, x: 0 } // where one went, from the axis

  go(change) {
    const full = this.full.value
    if (!full) return
    const point = { ...this.point.value }
    for (const axis of Object.keys(change)) point[axis] = bounded(Math.round(change[axis]), 0, full[axis] - 1)
    if (AXES.every((axis) => point[axis] === this.point.value[axis])) return
    this.point.value = point
    this.#choose()
  }

  #choose() {
    const [{ y, x }, full] = [this.point.value, this.full.value]
    this.#chosen = { y: y - (full.y - 1) / 2, x: x - (full.x - 1) / 2 }
  }

  step(axis, by) {
    this.go({ [axis]: this.point.value[axis] + by })
  }

  fit() {
    const full = this.full.value
    if (full) this.seen.value = { zoom: 1, z: (full.z - 1) / 2, y: (full.y - 1) / 2, x: (full.x - 1) / 2 }
  }

  // By a factor, so that `fixed` stays where it is on the screen.
  zoom(factor, fixed = this.point.value) {
    const seen = { ...this.seen.value }
    const zoom = bounded(seen.zoom * factor, 1, MOST)
    for (const axis of AXES) {
      if (axis in fixed) seen[axis] = fixed[axis] + ((seen[axis] - fixed[axis]) * seen.zoom) / zoom
    }
    this.#see({ ...seen, zoom })
  }

  // By voxels.
  pan(change) {
    const seen = { ...this.seen.value }
    for (const axis of Object.keys(change)) seen[axis] += change[axis]
    this.#see(seen)
  }

  #see(seen) {
    const full = this.full.value
    if (!full) return
    if (seen.zoom === 1) return this.fit()
    for (const axis of AXES) seen[axis] = bounded(seen[axis], -0.5, full[axis] - 0.5)
    this.seen.value = seen
  }
}
