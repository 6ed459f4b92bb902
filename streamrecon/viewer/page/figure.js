// One image, drawn by BokehJS on a plain canvas (no WebGL), whose data is replaced in place.

import { binning } from './pictures.js'
import { color } from './colors.js'

export class ImageFigure {
  // The figure fills `host`; `cross`: the colors of two lines that cross on it, across and down.
  static async create(host, cross = []) {
    const figure = new ImageFigure()
    const { Bokeh } = window
    figure.#across = new Bokeh.Range1d({ start: 0, end: 1 })
    figure.#down = new Bokeh.Range1d({ start: 1, end: 0 })
    figure.#source = new Bokeh.ColumnDataSource({ data: figure.#columns(1, 1, 1, 1) })
    const plot = new Bokeh.Plotting.Figure({
      x_range: figure.#across,
      y_range: figure.#down,
      x_axis_type: null,
      y_axis_type: null,
      tools: [],
      toolbar_location: null,
      min_border: 0,
      outline_line_color: null,
      background_fill_color: null,
      border_fill_color: null,
      sizing_mode: 'stretch_both',
      output_backend: 'canvas',
    })
    const [image, x, y, dw, dh] = ['image', 'x', 'y', 'dw', 'dh'].map((field) => ({ field }))
    plot.image_rgba({ image, x, y, dw, dh, source: figure.#source })
    const width = Math.max(1, parseFloat(getComputedStyle(host).fontSize) / 14)
    cross.forEach((line_color, n) => {
      const dimension = ['width', 'height'][n]
      const line = { dimension, location: 0, level: 'overlay' }
      // A dark edge, so that it is seen on every color.
      const edge = new Bokeh.Span({ ...line, line_color: 'black', line_alpha: 0.4, line_width: 3 * width })
      figure.#spans.push(edge, new Bokeh.Span({ ...line, line_color, line_alpha: 0.75, line_width: width }))
    })
    for (const span of figure.#spans) plot.add_layout(span)
    await Bokeh.Plotting.show(plot, host)
    // Mouse and keyboard come to what is around it.
    host.inert = true
    return figure
  }

  #across
  #down
  #source
  #pixels = new Uint32Array(1)
  #size = [0, 0, 0, 0] // rows and columns of pixels, and of voxels
  #spans = []

  cross(across, down) {
    if (this.#spans.length === 0) return
    const [across_edge, across_line, down_edge, down_line] = this.#spans
    across_edge.location = across_line.location = down
    down_edge.location = down_line.location = across
  }

  set crossed(shown) {
    for (const span of this.#spans) span.visible = shown
  }

  // What part is seen, in voxels; voxel n covers n - 0.5 to n + 0.5.
  look(left, right, top, bottom) {
    this.#across.setv({ start: left, end: right })
    this.#down.setv({ start: bottom, end: top })
  }

  draw(picture, low, high, colors) {
    const [rows, columns] = picture.shape
    const size = [rows, columns, rows * binning(picture, 0), columns * binning(picture, 1)]
    const same = size.every((n, at) => n === this.#size[at])
    if (!same) this.#pixels = new Uint32Array(rows * columns)
    color(picture, low, high, colors, this.#pixels)
    // Pixels that changed where they are would compare equal to what they were: BokehJS is told of them.
    if (same) this.#source.change.emit()
    else this.#source.data = this.#columns(...size)
    this.#size = size
  }

  #columns(rows, columns, height, width) {
    const { ndarray } = window.Bokeh.require('core/util/ndarray')
    const image = ndarray(this.#pixels.buffer, { dtype: 'uint32', shape: [rows, columns] })
    return { image: [image], x: [-0.5], y: [-0.5], dw: [width], dh: [height] }
  }
}
