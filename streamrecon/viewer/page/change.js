// How much each version differs from the one before, against the projections in it.

import { reconstructionOf } from './words.js'

const SVG = 'http://www.w3.org/2000/svg'
const BOX = { left: 48, right: 294, top: 8, bottom: 88 }
const MOST = 400 // points; of more, every other one is left out

export class ChangePlot {
  #points = [] // [projections, change]
  #of = ''
  #uid = ''
  #expected = 0

  constructor(svg) {
    this.svg = svg
    this.grid = this.#add('path', 'grid')
    this.curve = this.#add('path', 'curve')
    this.dots = this.#add('path', 'dots')
    this.labels = this.#add('g', 'labels')
    this.empty = this.#label('from the second version on', (BOX.left + BOX.right) / 2, 52, 'middle', this.svg)
  }

  take(update, expected, file) {
    // A file says nothing of which reconstruction it is: of the same scan it is that of before.
    if (reconstructionOf(update) !== this.#of && !(file && update.uid === this.#uid)) {
      this.#points = []
      this.#expected = 0
    }
    this.#of = reconstructionOf(update)
    this.#uid = update.uid
    this.#expected = expected ?? this.#expected // when the scan is over the axis stays
    this.empty.textContent = file ? 'of versions as they come' : 'from the second version on'
    const last = this.#points.at(-1)
    if (update.change !== null && update.change > 0 && (!last || update.projections > last[0])) {
      this.#points.push([update.projections, update.change])
      if (this.#points.length > MOST) this.#points = this.#points.filter((_, n) => n % 2 === 1)
    }
    this.#draw()
  }

  #draw() {
    const points = this.#points
    this.empty.setAttribute('visibility', points.length ? 'hidden' : 'visible')
    if (points.length === 0) {
      for (const path of [this.grid, this.curve, this.dots]) path.setAttribute('d', '')
      this.labels.replaceChildren()
      this.svg.setAttribute('aria-label', `Change between versions: ${this.empty.textContent}`)
      return
    }
    const values = points.map(([, change]) => Math.log10(change))
    const lowest = Math.floor(Math.min(...values))
    const highest = Math.max(lowest + 1, Math.ceil(Math.max(...values)))
    const most = Math.max(this.#expected, points.at(-1)[0])
    const x = (projections) => BOX.left + ((BOX.right - BOX.left) * projections) / most
    const y = (log) => BOX.bottom - ((BOX.bottom - BOX.top) * (log - lowest)) / (highest - lowest)
    const path = points.map(([projections], n) => `${x(projections).toFixed(1)} ${y(values[n]).toFixed(1)}`)
    this.curve.setAttribute('d', `M${path.join('L')}`)
    this.dots.setAttribute('d', path.map((at) => `M${at}h0`).join(''))
    const powers = Array.from({ length: highest - lowest + 1 }, (_, n) => lowest + n)
    this.grid.setAttribute('d', powers.map((power) => `M${BOX.left} ${y(power)}H${BOX.right}`).join(''))
    this.labels.replaceChildren()
    for (const power of powers) this.#label(percent(10 ** power), BOX.left - 5, y(power) + 3.5, 'end')
    for (const share of [0, 0.5, 1]) {
      const anchor = share === 0 ? 'start' : share === 1 ? 'end' : 'middle'
      const text = String(Math.round(share * most))
      this.#label(share === 0.5 ? `${text} projections` : text, x(share * most), 101, anchor)
    }
    const [projections, change] = points.at(-1)
    this.svg.setAttribute('aria-label', `Change between versions: ${percent(change)} at ${projections} projections`)
  }

  #label(text, x, y, anchor, parent = this.labels) {
    const label = this.#add('text', '', parent)
    label.setAttribute('x', x)
    label.setAttribute('y', y)
    label.setAttribute('text-anchor', anchor)
    label.textContent = text
    return label
  }

  #add(name, kind, parent = this.svg) {
    const made = document.createElementNS(SVG, name)
    made.setAttribute('class', kind)
    parent.append(made)
    return made
  }
}

function percent(share) {
  return `${Number((100 * share).toPrecision(2))} %`
}
