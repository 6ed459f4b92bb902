// Files for the one who looks: a slice as PNG as it is shown, or as .npy with its values.

import { color } from './colors.js'
import { fileName } from './words.js'

export function savePng(picture, contrast, title) {
  const [height, width] = picture.shape
  const pixels = new Uint32Array(width * height)
  color(picture, contrast.low, contrast.high, contrast.colors, pixels)
  const canvas = Object.assign(document.createElement('canvas'), { width, height })
  canvas.getContext('2d').putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), width, height), 0, 0)
  canvas.toBlob((blob) => save(blob, `${named(picture, title)}.png`))
}

export function saveNpy(picture, title) {
  const header = `{'descr': '<f4', 'fortran_order': False, 'shape': (${picture.shape.join(', ')}), }`
  const padded = header.padEnd(Math.ceil((header.length + 11) / 64) * 64 - 11) + '\n'
  const start = new Uint8Array([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, padded.length & 255, padded.length >> 8])
  save(new Blob([start, padded, picture.pixels]), `${named(picture, title)}.npy`)
}

function named(picture, title) {
  return fileName(title || picture.uid, `v${picture.version}`, `${picture.axis}${picture.index}`)
}

function save(blob, name) {
  const link = document.createElement('a')
  link.href = URL.createObjectURL(blob)
  link.download = name
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 10000)
}
