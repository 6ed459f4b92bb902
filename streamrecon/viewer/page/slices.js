// The three slices: each in a panel with a figure, a slider, and what the mouse does.

import { drawScaleBar } from './scalebar.js'
import { ImageFigure } from './figure.js'
import { AXES, AXIS_NAMES, PLANES } from './view.js'
import { watchPointer } from './pointer.js'
import { beyond, binning, valueAt } from './pictures.js'

const PATIENCE = 150 // ms before a slice that has not come is shown from the preview

export class Panel {
  static async create(axis, view, parent) {
    const panel = new Panel(axis, view, parent)
    const css = getComputedStyle(document.documentElement)
    const colors = [panel.down, panel.across].map((plane) => css.getPropertyValue(`--plane-${plane}`).trim())
    panel.#figure = await ImageFigure.create(panel.#stage.querySelector('.plot'), colors)
    panel.#follow()
    return panel
  }

  picture = null // what is drawn
  onHover = () => {} // (CSS pixels in it, or null)
  onDraw = () => {}
  #figure
  #view
  #stage
  #element
  #voxel = null
  #scale = 0
  #late = 0
  #crossed = true

  constructor(axis, view, parent) {
    this.axis = axis
    Object.assign(this, PLANES[axis])
    this.#view = view
    const element = document.getElementById('panel').content.firstElementChild.cloneNode(true)
    element.dataset.axis = axis
    element.setAttribute('aria-label', `${this.name} slice`)
    element.querySelector('h2').textContent = this.name
    element.querySelector('.across').textContent = `${AXIS_NAMES[this.across]} →`
    element.querySelector('.down').textContent = `${AXIS_NAMES[this.down]} ↓`
    for (const input of element.querySelectorAll('input')) {
      input.setAttribute('aria-label', `${this.name}: ${AXIS_NAMES[axis]}`)
      input.addEventListener('input', () => input.value !== '' && view.go({ [axis]: Number(input.value) }))
      input.addEventListener('blur', () => (input.value = view.point.value[axis]))
    }
    this.#stage = element.querySelector('.stage')
    this.#stage.setAttribute('aria-label', `${this.name} slice: arrow keys move the point, PageUp and PageDown change the slice`)
    element.querySelector('.alone').addEventListener('click', () => this.toggleAlone())
    this.#element = element
    parent.append(element)
  }

  toggleAlone() {
    this.#view.alone.value = this.#view.alone.value === this.axis ? '' : this.axis
  }

  toggleCross() {
    this.#crossed = !this.#crossed
    this.#figure.crossed = this.#crossed
  }

  focus() {
    this.#stage.focus()
  }

  onButton(name, does) {
    this.#element.querySelector(`.${name}`).addEventListener('click', does)
  }

  // CSS pixels of the longest side that the whole slice would have as it is zoomed now.
  get pixels() {
    const full = this.#view.full.value
    return full ? this.#scale * Math.max(full[this.across], full[this.down]) : 0
  }

  set voxel(size) {
    this.#voxel = size
    drawScaleBar(this.#element.querySelector('.scalebar'), this.#scale, size)
  }

  // Show what there is of the place looked at: the slice, or after a while the preview, or what is here, said to be old.
  show(pictures, contrast, newest) {
    clearTimeout(this.#late)
    const index = this.#view.point.value[this.axis]
    const exact = pictures.slice(this.axis, index)
    if (exact) {
      this.#draw(exact, contrast)
      const old = newest && exact.version < newest ? `version ${exact.version}` : ''
      this.#say(old, old)
      return
    }
    const coarse = () => {
      const preview = pictures.fromPreview(this.axis, this.#view.point.value[this.axis])
      if (preview) this.#draw(preview, contrast)
      this.#say(preview ? 'preview' : this.picture ? `still ${AXIS_NAMES[this.axis]} ${this.picture.index}` : '', true)
    }
    if (!this.picture) coarse()
    else this.#late = setTimeout(coarse, PATIENCE)
  }

  redraw(contrast) {
    if (this.picture) this.#draw(this.picture, contrast)
  }

  set stale(stale) {
    this.#stage.classList.toggle('stale', stale)
  }

  clear() {
    this.picture = null
    this.#stage.querySelector('.empty').hidden = false
    this.#stage.querySelector('.plot').hidden = true
  }

  // Voxels, at CSS pixels in it.
  place(x, y) {
    return { ...this.#view.point.value, ...this.#voxels(x, y) }
  }

  // What there is at voxels (across, down) of the slice looked at: a value, the sign where it is beyond that, and how many voxels
  // along either side it is the mean of; undefined where there is none, or another slice is still drawn.
  value(across, down) {
    if (!this.picture || this.picture.index !== this.#view.point.value[this.axis]) return undefined
    const width = binning(this.picture, 0)
    const [row, column] = [Math.floor(down / width), Math.floor(across / width)]
    const [rows, columns] = this.picture.shape
    if (row < 0 || column < 0 || row >= rows || column >= columns) return undefined
    const at = row * columns + column
    const [high, wide] = this.picture.full
    const mean = { across: Math.min(width, wide), down: Math.min(width, high) }
    return { value: valueAt(this.picture, at), sign: beyond(this.picture, at), ...mean }
  }

  #say(text, shown) {
    const chip = this.#stage.querySelector('.chip')
    chip.hidden = !text || !shown
    chip.textContent = text
  }

  #draw(picture, contrast) {
    if (!this.picture) {
      this.#stage.querySelector('.empty').hidden = true
      this.#stage.querySelector('.plot').hidden = false
    }
    this.picture = picture
    Object.assign(this.#stage.dataset, { index: picture.index, version: picture.version, kind: picture.kind })
    this.#figure.draw(picture, contrast.low, contrast.high, contrast.colors)
    this.onDraw()
  }

  #follow() {
    const view = this.#view
    view.point.follow((point) => {
      this.#figure.cross(point[this.across], point[this.down])
      for (const input of this.#element.querySelectorAll('input')) {
        if (document.activeElement !== input || input.value !== '') input.value = point[this.axis]
      }
    })
    view.full.follow((full) => {
      if (!full) return
      for (const input of this.#element.querySelectorAll('input')) input.max = full[this.axis] - 1
      this.#element.querySelector('.of').textContent = `/ ${full[this.axis] - 1}`
    })
    view.seen.follow(() => this.#look())
    view.active.follow((axis) => this.#element.classList.toggle('active', axis === this.axis))
    view.alone.follow((axis) => {
      this.#element.hidden = axis !== '' && axis !== this.axis
      this.#element.querySelector('.alone').setAttribute('aria-pressed', String(axis === this.axis))
    })
    new ResizeObserver(() => this.#look()).observe(this.#stage)
    this.#stage.addEventListener('focus', () => (view.active.value = this.axis))
    watchPointer(this.#stage, {
      set: (x, y) => {
        view.active.value = this.axis
        view.go(this.#voxels(x, y))
      },
      hover: (x, y) => this.onHover(x === null ? null : [x, y]),
      scroll: (by) => {
        view.active.value = this.axis
        view.step(this.axis, by)
      },
      zoom: (factor, x, y) => view.zoom(factor, this.#voxels(x, y)),
      pan: (x, y) => view.pan({ [this.across]: -x / this.#scale, [this.down]: -y / this.#scale }),
      fit: () => view.fit(),
    })
  }

  #voxels(x, y) {
    const seen = this.#view.seen.value
    const { clientWidth, clientHeight } = this.#stage
    return {
      [this.across]: seen[this.across] + (x - clientWidth / 2) / this.#scale,
      [this.down]: seen[this.down] + (y - clientHeight / 2) / this.#scale,
    }
  }

  #look() {
    const full = this.#view.full.value
    const { clientWidth, clientHeight } = this.#stage
    if (!full || !clientWidth || !clientHeight) return
    const seen = this.#view.seen.value
    this.#scale = Math.min(clientWidth / full[this.across], clientHeight / full[this.down]) * seen.zoom
    const [width, height] = [clientWidth / this.#scale / 2, clientHeight / this.#scale / 2]
    const [across, down] = [seen[this.across], seen[this.down]]
    this.#figure.look(across - width, across + width, down - height, down + height)
    drawScaleBar(this.#element.querySelector('.scalebar'), this.#scale, this.#voxel)
    this.onLook?.()
  }
}

export async function createPanels(view, parent) {
  const panels = {}
  for (const axis of AXES) panels[axis] = await Panel.create(axis, view, parent)
  return panels
}
