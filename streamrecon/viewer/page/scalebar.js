// A bar of a round length, over a slice.

import { length, round } from './words.js'

const WIDEST = 9 // times the height of the letters

// `voxel`: metres, or null where nobody knows; `scale`: CSS pixels of a voxel.
export function drawScaleBar(bar, scale, voxel) {
  bar.hidden = !(scale > 0)
  if (bar.hidden) return
  const most = (WIDEST * parseFloat(getComputedStyle(bar).fontSize)) / scale
  const [width, text] = voxel ? [round(most * voxel) / voxel, length(round(most * voxel))] : [round(most), `${round(most)} pixels`]
  bar.querySelector('i').style.width = `${width * scale}px`
  bar.querySelector('b').textContent = text
}
