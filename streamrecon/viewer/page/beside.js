// The newest projection, and the sinogram of the slice looked at.

import { binning, valueAt } from './pictures.js'
import { ImageFigure } from './figure.js'
import { palette } from './colors.js'

const PROBED = 4000 // pixels

export class Beside {
  static async create() {
    const beside = new Beside()
    for (const name of ['projection', 'sinogram']) {
      beside.#figures[name] = await ImageFigure.create(document.getElementById(name))
    }
    return beside
  }

  #figures = {}
  #shown = {}

  show(pictures, fromFile) {
    for (const name of ['projection', 'sinogram']) {
      const picture = pictures[name]
      const text = document.getElementById(`${name}-text`)
      // What is no longer there, such as of the scan before a file was opened, is not looked at either.
      document.getElementById(name).classList.toggle('empty', !picture)
      if (!picture) text.textContent = fromFile ? `a file has no ${name}` : `no ${name} yet`
      if (picture === this.#shown[name]) continue
      this.#shown[name] = picture
      if (!picture) continue
      text.textContent = name === 'projection' ? `projection ${picture.index}` : `sinogram of slice ${picture.index}`
      this.#draw(name, picture)
    }
  }

  #draw(name, picture) {
    const figure = this.#figures[name]
    const [low, high] = ends(picture)
    figure.draw(picture, low, high, palette('gray', true))
    const [rows, columns] = picture.shape.map((n, axis) => n * binning(picture, axis))
    const host = document.getElementById(name)
    host.hidden = false
    if (name === 'projection') {
      // Square pixels, all of it.
      const scale = Math.min(host.clientWidth / columns, host.clientHeight / rows) || 1
      const [width, height] = [host.clientWidth / scale / 2, host.clientHeight / scale / 2]
      figure.look((columns - 1) / 2 - width, (columns - 1) / 2 + width, (rows - 1) / 2 - height, (rows - 1) / 2 + height)
    } else {
      figure.look(-0.5, columns - 0.5, -0.5, rows - 0.5)
    }
  }
}

// Values between which all but a hundredth of the pixels lie.
function ends(picture) {
  const stride = Math.max(1, Math.floor(picture.pixels.length / PROBED)) | 1
  const values = []
  for (let n = 0; n < picture.pixels.length; n += stride) {
    const value = valueAt(picture, n)
    if (!Number.isNaN(value)) values.push(value)
  }
  values.sort((a, b) => a - b)
  return [values[Math.floor(values.length * 0.005)] ?? 0, values[Math.floor(values.length * 0.995)] ?? 1]
}
