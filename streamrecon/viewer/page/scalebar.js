// A bar of a round length, over a slice.

import { length, round } from './words.js'

const WIDEST = 120 // CSS pixels

// `voxel`: metres, or null where nobody knows; `scale`: CSS pixels of a voxel.
export function drawScaleBar(bar, scale, voxel) {
  bar.hidden = !(scale > 0)
  if (bar.hidden) return
  const most = WIDEST / scale
  const [width, text] = voxel ? [round(most * voxel) / voxel, length(round(most * voxel))] : [round(most), `${round(most)} pixels`]
  bar.querySelector('i').style.width = `${width * scale}px`
  bar.querySelector('b').textContent = text
}
