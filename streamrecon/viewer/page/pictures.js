// The pictures that have come, and what is in them.

import { reconstructionOf } from './words.js'

export const NO_VALUE = 65535
const STEPS = 65534
const KEPT = 24 // slices, beside those that are looked at

export function valueAt(picture, position) {
  const pixel = picture.pixels[position]
  if (picture.dtype === '<f4') return pixel
  return pixel === NO_VALUE ? NaN : picture.lo + (pixel * (picture.hi - picture.lo)) / STEPS
}

// Where a value is only known to be at most, or at least, what `valueAt` says: the sign for that.
export function beyond(picture, position) {
  const pixel = picture.pixels[position]
  if (picture.dtype === '<f4') return ''
  return picture.below && pixel === 0 ? '≤ ' : picture.above && pixel === STEPS ? '≥ ' : ''
}

// How many voxels one pixel of a picture is along one of its axes. Pictures are binned by whole numbers, what is left over is
// left out, and all but a sinogram have square pixels: their longest side tells best.
export function binning(picture, axis) {
  const { full, shape } = picture
  const side = picture.kind === 'sinogram' ? axis : full.indexOf(Math.max(...full))
  return Math.max(1, Math.floor(full[side] / shape[side]))
}

export class Pictures {
  preview = null
  projection = null
  sinogram = null
  #slices = new Map() // 'z 12' -> picture, the longest unseen first

  take(picture) {
    if (this.#of !== reconstructionOf(picture)) this.clear()
    this.#of = reconstructionOf(picture)
    if (picture.kind !== 'slice') {
      this[picture.kind] = picture
      return
    }
    const key = `${picture.axis} ${picture.index}`
    this.#slices.delete(key)
    this.#slices.set(key, picture)
    for (const oldest of this.#slices.keys()) {
      if (this.#slices.size <= KEPT) break
      this.#slices.delete(oldest)
    }
  }

  #of = ''

  clear() {
    this.#slices.clear()
    this.preview = this.projection = this.sinogram = null
  }

  slice(axis, index) {
    const key = `${axis} ${index}`
    const picture = this.#slices.get(key)
    if (picture) {
      this.#slices.delete(key)
      this.#slices.set(key, picture)
    }
    return picture
  }

  // A slice of the preview, in its few voxels.
  fromPreview(axis, index) {
    const preview = this.preview
    if (!preview) return undefined
    const [nz, ny, nx] = preview.shape
    const along = 'zyx'.indexOf(axis)
    const at = Math.min(preview.shape[along] - 1, Math.floor(index / binning(preview, along)))
    const kept = [0, 1, 2].filter((each) => each !== along)
    const shape = kept.map((each) => preview.shape[each])
    const strides = [ny * nx, nx, 1]
    const pixels = new preview.pixels.constructor(shape[0] * shape[1])
    let n = 0
    for (let i = 0; i < shape[0]; i += 1) {
      for (let j = 0; j < shape[1]; j += 1) {
        pixels[n] = preview.pixels[at * strides[along] + i * strides[kept[0]] + j * strides[kept[1]]]
        n += 1
      }
    }
    if (nz === 0) return undefined
    const full = kept.map((each) => preview.full[each])
    return { ...preview, axis, index, shape, full, pixels }
  }
}
