// The range of values that is shown, by percentile or by hand, and the histogram it is set on.

import { MAPS, palette } from './colors.js'
import { NO_VALUE } from './pictures.js'
import { remember, remembered, Signal } from './signal.js'
import { number } from './words.js'

const BINS = 256
const LOOKED_AT = 60000 // pixels of a slice, about
const MOST_OF = 0.002 // share of the values at each end that may be far away
const CLOSER = 6 // times that the histogram is made again, closer

const element = (id) => document.getElementById(id)

export class Contrast {
  changed = new Signal(null)
  low = 0
  high = 1
  colors
  #byHand = false
  #locked = false
  #first = 0 // of the histogram
  #last = 1
  #counts = new Float64Array(BINS)
  #pictures = []
  #all = [0, 1] // the least and the greatest value
  #below = 0 // values less than `#first`
  #total = 0
  #marks
  #curve

  constructor() {
    const maps = element('colormap')
    maps.append(...MAPS.map((name) => new Option(name, name)))
    maps.value = remembered('colormap', 'gray')
    if (!maps.value) maps.value = 'gray'
    element('clip').value = remembered('clip', 5)
    this.#press('invert', remembered('invert', 'false') === 'true')
    this.#recolor()
    this.#buildHistogram()
    maps.addEventListener('change', () => this.#recolor())
    element('invert').addEventListener('click', () => this.invert())
    element('lock').addEventListener('click', () => this.lock())
    element('auto').addEventListener('click', () => this.auto())
    element('clip').addEventListener('input', () => {
      remember('clip', element('clip').value)
      this.auto()
    })
    for (const id of ['low', 'high']) {
      element(id).addEventListener('change', (event) => {
        if (event.target.value !== '') this.set({ [id]: Number(event.target.value) })
        else this.#tell()
      })
    }
    this.#tell()
  }

  // Slices are shown now: count their values, and follow them where the range is theirs.
  measure(pictures) {
    this.#pictures = pictures
    this.#count(pictures)
    if (!this.#byHand && !this.#locked) this.#byPercentile()
    this.#draw()
  }

  // Another scan has other values.
  forget() {
    this.#byHand = false
    if (this.#locked) this.lock()
  }

  // The other end goes along where one would pass it.
  set({ low, high }) {
    const width = this.high - this.low
    low ??= high > this.low ? this.low : high - width
    high ??= low < this.high ? this.high : low + width
    if (!(low < high)) {
      this.#tell()
      return
    }
    this.#byHand = true
    this.low = low
    this.high = high
    this.#tell()
  }

  auto() {
    this.#byHand = false
    if (this.#locked) this.lock()
    this.#count(this.#pictures) // those of a range by hand are of wide bins
    this.#byPercentile()
    this.#tell()
  }

  lock() {
    this.#locked = !this.#locked
    this.#press('lock', this.#locked)
    this.#draw()
  }

  nextMap() {
    const maps = element('colormap')
    maps.selectedIndex = (maps.selectedIndex + 1) % maps.length
    this.#recolor()
  }

  invert() {
    this.#press('invert', element('invert').getAttribute('aria-pressed') !== 'true')
    this.#recolor()
  }

  #press(id, pressed) {
    element(id).setAttribute('aria-pressed', String(pressed))
  }

  #recolor() {
    const [name, inverted] = [element('colormap').value, element('invert').getAttribute('aria-pressed') === 'true']
    remember('colormap', name)
    remember('invert', inverted)
    this.colors = palette(name, inverted)
    this.changed.value = this
  }

  // From the least to the greatest value; where hardly any bin has the most of them, closer around these, until they have.
  #count(pictures) {
    const there = pictures.filter((picture) => picture.hi > picture.lo)
    if (there.length === 0) {
      this.#counts.fill(0)
      this.#total = 0
      return
    }
    const [least, most] = [Math.min(...there.map(({ lo }) => lo)), Math.max(...there.map(({ hi }) => hi))]
    this.#all = [least, most]
    this.#fill(there, least, most)
    for (let n = 0; n < CLOSER; n += 1) {
      const [low, high] = [this.#percentile(MOST_OF), this.#percentile(1 - MOST_OF)]
      const around = Math.max(high - low, (this.#last - this.#first) / BINS)
      if (around * 8 > this.#last - this.#first) break
      this.#fill(there, Math.max(least, low - around), Math.min(most, high + around))
    }
    if (this.#byHand || this.#locked) this.#fill(there, Math.min(this.#first, this.low), Math.max(this.#last, this.high))
  }

  #fill(pictures, first, last) {
    this.#counts.fill(0)
    this.#below = this.#total = 0
    this.#first = first
    this.#last = last
    const scale = BINS / (last - first)
    for (const { pixels, lo, hi } of pictures) {
      const step = ((hi - lo) / 65534) * scale
      const offset = (lo - first) * scale
      const stride = Math.max(1, Math.floor(pixels.length / LOOKED_AT)) | 1
      for (let n = 0; n < pixels.length; n += stride) {
        if (pixels[n] === NO_VALUE) continue
        const bin = Math.floor(offset + pixels[n] * step)
        this.#total += 1
        if (bin < 0) this.#below += 1
        else if (bin < BINS || (bin === BINS && last === hi)) this.#counts[Math.min(bin, BINS - 1)] += 1
      }
    }
  }

  // The value that this share of all is less than.
  #percentile(share) {
    const width = (this.#last - this.#first) / BINS
    const part = share * this.#total
    let sum = this.#below
    if (sum >= part && sum > 0) return this.#first
    for (let bin = 0; bin < BINS; bin += 1) {
      if (this.#counts[bin] && sum + this.#counts[bin] >= part) {
        return this.#first + width * (bin + (part - sum) / this.#counts[bin])
      }
      sum += this.#counts[bin]
    }
    return this.#last
  }

  #byPercentile() {
    if (this.#total === 0) return
    const share = Number(element('clip').value) / 1000
    const [low, high] = share > 0 ? [this.#percentile(share), this.#percentile(1 - share)] : this.#all
    this.low = low
    this.high = high > low ? high : low + (this.#last - this.#first) / BINS
  }

  #tell() {
    this.#draw()
    this.changed.value = this
  }

  #buildHistogram() {
    const svg = element('histogram')
    const make = (name, attributes) => {
      const made = document.createElementNS('http://www.w3.org/2000/svg', name)
      for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value)
      svg.append(made)
      return made
    }
    const range = make('rect', { class: 'range', y: 0, height: 80 })
    this.#curve = make('path', { class: 'curve' })
    const handle = (id, label) => {
      const attributes = { class: 'handle', role: 'slider', tabindex: 0, 'aria-label': label }
      const mark = make('g', attributes)
      for (const [kind, x, width] of [['grip', -6, 12], ['mark', -1, 2]]) {
        const rect = document.createElementNS('http://www.w3.org/2000/svg', 'rect')
        for (const [key, value] of Object.entries({ class: kind, x, width, y: 0, height: 80 })) rect.setAttribute(key, value)
        mark.append(rect)
      }
      const move = (event) => {
        const box = svg.getBoundingClientRect()
        const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width))
        this.set({ [id]: this.#first + share * (this.#last - this.#first) })
      }
      mark.addEventListener('pointerdown', (event) => {
        mark.setPointerCapture(event.pointerId)
        mark.addEventListener('pointermove', move)
      })
      mark.addEventListener('lostpointercapture', () => mark.removeEventListener('pointermove', move))
      mark.addEventListener('keydown', (event) => {
        const by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key]
        if (!by) return
        event.preventDefault()
        event.stopPropagation()
        this.set({ [id]: this[id] + (by * (this.#last - this.#first)) / (event.shiftKey ? 20 : 200) })
      })
      return mark
    }
    this.#marks = { range, low: handle('low', 'Value shown darkest'), high: handle('high', 'Value shown brightest') }
  }

  #draw() {
    const { range, low, high } = this.#marks
    const place = (value) => Math.min(BINS, Math.max(0, ((value - this.#first) / (this.#last - this.#first)) * BINS))
    const [left, right] = [place(this.low), place(this.high)]
    range.setAttribute('x', left)
    range.setAttribute('width', Math.max(0, right - left))
    for (const [mark, at, value] of [[low, left, this.low], [high, right, this.high]]) {
      mark.setAttribute('transform', `translate(${at})`)
      mark.setAttribute('aria-valuenow', value)
      mark.setAttribute('aria-valuemin', this.#first)
      mark.setAttribute('aria-valuemax', this.#last)
      mark.setAttribute('aria-valuetext', number(value))
    }
    // A logarithm, as the air has most of the pixels.
    const most = Math.log1p(Math.max(...this.#counts)) || 1
    let path = 'M0 80'
    for (let bin = 0; bin < BINS; bin += 1) path += `L${bin} ${(80 - (74 * Math.log1p(this.#counts[bin])) / most).toFixed(1)}`
    this.#curve.setAttribute('d', `${path}L256 80Z`)
    for (const id of ['low', 'high']) {
      if (document.activeElement !== element(id)) element(id).value = Number(this[id].toPrecision(4))
    }
    element('clip-text').textContent = `${(Number(element('clip').value) / 10).toFixed(1)} %`
    element('auto').setAttribute('aria-pressed', String(!this.#byHand && !this.#locked))
  }
}
