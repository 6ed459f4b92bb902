// From values to colors.

import { NO_VALUE } from './pictures.js'

export const MAPS = ['gray', 'viridis', 'cividis', 'inferno', 'magma', 'plasma', 'turbo']

// 256 pixels as a canvas has them in memory: 0xAABBGGRR.
export function palette(name, inverted) {
  const colors = window.Bokeh.Palettes[name === 'gray' ? 'grey' : name](256)
  const pixels = new Uint32Array(256)
  colors.forEach((color, n) => {
    const rgb = color >>> 8
    const place = inverted ? 255 - n : n
    pixels[place] = (0xff000000 | ((rgb & 0xff) << 16) | (rgb & 0xff00) | (rgb >>> 16)) >>> 0
  })
  return pixels
}

const table = new Uint32Array(65536)

// Colors a picture into `into`, which has its size. What has no value is transparent.
export function color(picture, low, high, colors, into) {
  const scale = 256 / (high - low || 1)
  const { pixels } = picture
  if (picture.dtype === '<f4') {
    for (let n = 0; n < pixels.length; n += 1) {
      const at = (pixels[n] - low) * scale
      into[n] = Number.isFinite(at) ? colors[at < 0 ? 0 : at > 255 ? 255 : at | 0] : 0
    }
    return
  }
  const step = ((picture.hi - picture.lo) / 65534) * scale
  const first = (picture.lo - low) * scale
  for (let q = 0; q < NO_VALUE; q += 1) {
    const at = first + q * step
    table[q] = colors[at < 0 ? 0 : at > 255 ? 255 : at | 0]
  }
  table[NO_VALUE] = 0
  for (let n = 0; n < pixels.length; n += 1) into[n] = table[pixels[n]]
}
