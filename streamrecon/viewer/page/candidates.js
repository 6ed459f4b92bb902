// A strip of one slice reconstructed around some candidate centers, to be chosen from by eye.

import { color } from './colors.js'

const QUIET = 250 // ms after the slider moved
const APART = 1500 // ms between two that come by themselves
const element = (id) => document.getElementById(id)

export class Candidates {
  #hands
  #view
  #contrast
  #middle = null
  #asking = false
  #again = false
  #timer = 0
  #last = 0
  #pixels = new Uint32Array(0)
  #shown = null // { picture, first, last }
  #now = null
  #chosen = false // whether somebody went where the strip is: then it does not follow the engine's center
  columns = 0 // of the detector, where they are known

  constructor(hands, view, contrast) {
    this.#hands = hands
    this.#view = view
    this.#contrast = contrast
    element('candidates-close').addEventListener('click', () => {
      this.close()
      element('center-compare').focus()
    })
    element('candidates-again').addEventListener('click', () => this.#ask())
    for (const id of ['slice', 'span', 'count']) element(`candidates-${id}`).addEventListener('change', () => this.#ask())
    view.point.listen(({ z }) => {
      const slice = element('candidates-slice')
      if (document.activeElement === slice || Number(slice.value) === z) return
      slice.value = z
      this.#soon()
    })
    contrast.changed.listen(() => this.#draw())
  }

  get open() {
    return !element('candidates').hidden
  }

  toggle(center) {
    if (this.open) {
      this.close()
      return
    }
    element('candidates').hidden = false
    element('center-compare').setAttribute('aria-expanded', 'true')
    element('candidates-slice').value = this.#view.point.value.z
    this.around(center, 0)
    this.#chosen = this.#now !== null && Math.abs(this.#middle - this.#now) >= 0.01 // a field has two decimals
  }

  close() {
    if (!this.open) return
    element('candidates').hidden = true
    element('center-compare').setAttribute('aria-expanded', 'false')
    this.#hands.compared()
  }

  around(center, wait = QUIET) {
    this.#chosen = true
    this.#middle = center ?? (this.#view.full.value ? (this.#view.full.value.x - 1) / 2 : 0)
    this.#soon(wait)
  }

  // The center the engine has now.
  set now(center) {
    this.#now = center
    this.#mark()
    const span = Number(element('candidates-span').value)
    if (!this.open || center === null) return
    const there = Math.abs(center - this.#middle) <= span
    if (there) this.#chosen = false // it was found, or set
    else if (!this.#chosen) {
      this.around(center)
      this.#chosen = false
    }
  }

  update() {
    if (element('candidates-live').checked && Date.now() - this.#last > APART) this.#soon(0)
  }

  #soon(wait = QUIET) {
    if (!this.open) return
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.#ask(), wait)
  }

  async #ask() {
    if (!this.open) return
    if (this.#asking) {
      this.#again = true
      return
    }
    const span = Math.abs(Number(element('candidates-span').value)) || 4
    const count = Math.min(31, Math.max(2, Math.round(Number(element('candidates-count').value)) || 9))
    const inside = (column) => (this.columns ? Math.min(this.columns - 1, Math.max(0, column)) : column)
    const middle = inside(this.#middle)
    const [first, last] = [inside(middle - span), inside(middle + span)]
    const state = element('candidates-state')
    this.#asking = true
    this.#again = false
    if (!this.#shown) state.textContent = 'asked'
    try {
      const answer = await this.#hands.askQuietly('centers', [Number(element('candidates-slice').value), first, last, count])
      state.textContent = answer.text
      if (answer.done && answer.pictures.length) {
        this.#shown = { picture: answer.pictures[0], first, last }
        this.#draw()
      }
    } catch (error) {
      state.textContent = error.message
    }
    this.#asking = false
    this.#last = Date.now()
    if (this.#again) this.#soon(0)
  }

  #draw() {
    if (!this.open || !this.#shown) return
    const { picture, first, last } = this.#shown
    const [count, rows, columns] = picture.shape
    const strip = element('strip')
    strip.classList.toggle('flat', columns > 3 * rows)
    while (strip.children.length > count) strip.lastChild.remove()
    while (strip.children.length < count) strip.append(this.#button())
    if (this.#pixels.length !== rows * columns) this.#pixels = new Uint32Array(rows * columns)
    const image = new ImageData(new Uint8ClampedArray(this.#pixels.buffer), columns, rows)
    const { low, high, colors } = this.#contrast
    for (let n = 0; n < count; n += 1) {
      const pixels = picture.pixels.subarray(n * rows * columns, (n + 1) * rows * columns)
      color({ ...picture, pixels }, low, high, colors, this.#pixels)
      const button = strip.children[n]
      const canvas = button.querySelector('canvas')
      if (canvas.width !== columns || canvas.height !== rows) Object.assign(canvas, { width: columns, height: rows })
      canvas.getContext('2d').putImageData(image, 0, 0)
      const center = first + ((last - first) * n) / (count - 1)
      button.dataset.center = center
      button.querySelector('span').textContent = center.toFixed(2)
      button.setAttribute('aria-label', `Set the center to ${center.toFixed(2)}`)
    }
    this.#mark()
  }

  #button() {
    const button = Object.assign(document.createElement('button'), { type: 'button' })
    button.append(document.createElement('canvas'), document.createElement('span'))
    button.addEventListener('click', () => this.#hands.setCenter(Number(Number(button.dataset.center).toFixed(3))))
    return button
  }

  #mark() {
    const buttons = [...element('strip').children]
    const away = (button) => Math.abs(Number(button.dataset.center) - this.#now)
    let nearest = this.#now === null || buttons.length === 0 ? null : buttons.reduce((best, each) => (away(each) < away(best) ? each : best))
    // Beyond the ends of the strip there is none.
    if (nearest && away(nearest) > (Number(buttons.at(-1).dataset.center) - Number(buttons[0].dataset.center)) / buttons.length) nearest = null
    for (const button of buttons) button.toggleAttribute('aria-current', button === nearest)
  }
}
