// The volume from the preview, by k3d: loaded when it is opened for the first time, drawn on demand. Needs WebGL.

import { reconstructionOf } from './words.js'

// From where, at what, and what is up.
const CAMERA = [0.5, -0.85, 0.55, 0, 0, -0.02, 0, 0, 1]

const CSS = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim()

function script(source) {
  return new Promise((resolve, reject) => {
    const made = document.createElement('script')
    made.src = source
    made.onload = resolve
    made.onerror = () => reject(new Error(`${source} could not be loaded`))
    document.head.append(made)
  })
}

function hasWebGl() {
  const context = document.createElement('canvas').getContext('webgl2')
  context?.getExtension('WEBGL_lose_context')?.loseContext()
  return Boolean(context)
}

export class VolumeView {
  available = false // whether the server has the library
  #text = document.getElementById('volume-text')
  #host = document.getElementById('volume')
  #k3d = null
  #shown = null
  #busy = false

  get open() {
    return document.getElementById('section-volume').open
  }

  async show(preview, contrast) {
    if (!this.open) return
    if (!this.available) {
      this.#say("The server has no library for it: pip install 'streamrecon[view3d]' brings it.")
      return
    }
    if (!this.#k3d && !hasWebGl()) {
      this.#say('This browser has no WebGL, which the volume needs. Everything else works without.')
      return
    }
    if (!preview || this.#busy) return
    const wanted = `${reconstructionOf(preview)} ${preview.version} ${preview.shape} ${contrast.low} ${contrast.high} ${document.documentElement.dataset.theme}`
    if (wanted === this.#shown) return
    this.#busy = true
    try {
      if (!this.#k3d) await this.#load()
      await this.#draw(preview, contrast)
      this.#shown = wanted
      this.#say(`preview of ${preview.shape.join(' × ')} voxels, version ${preview.version}; drag to turn`)
    } catch (error) {
      this.#say(`The volume cannot be drawn: ${error.message}`)
    }
    this.#busy = false
  }

  #say(text) {
    if (this.#text.textContent !== text) this.#text.textContent = text
  }

  async #load() {
    this.#say('loading')
    await script('k3d/require.js')
    await script('k3d/standalone.js')
    const library = await new Promise((resolve, reject) => window.require(['k3d'], resolve, reject))
    this.#host.hidden = false
    this.#k3d = new library.K3D(library.ThreeJsProvider, this.#host, {
      menuVisibility: false,
      renderOnChange: true,
      gridVisible: false,
      axesHelper: 0,
      colorbarObjectId: 0,
      cameraAutoFit: false,
    })
    this.#k3d.setCamera(CAMERA)
  }

  async #draw(preview, contrast) {
    const values = new Float32Array(preview.pixels.length)
    const step = (preview.hi - preview.lo) / 65534
    for (let n = 0; n < values.length; n += 1) {
      values[n] = preview.pixels[n] === 65535 ? preview.lo : preview.lo + preview.pixels[n] * step
    }
    const [nz, ny, nx] = preview.shape
    const most = Math.max(nz, ny, nx)
    const colors = []
    contrast.colors.forEach((pixel, n) => {
      colors.push(n / 255, (pixel & 255) / 255, ((pixel >> 8) & 255) / 255, ((pixel >> 16) & 255) / 255)
    })
    const object = {
      id: 1, type: 'Volume', visible: true, name: 'preview',
      volume: { data: values, shape: preview.shape },
      color_map: { data: new Float32Array(colors), shape: [colors.length] },
      color_range: [contrast.low, contrast.high],
      opacity_function: { data: new Float32Array([0, 0, 0.3, 0, 0.5, 0.4, 1, 1]), shape: [8] },
      alpha_coef: 60, samples: 256, gradient_step: 0.005, light_scale: 1, metalness: 0, roughness: 0.25,
      shadow: 'off', shadow_delay: 500, shadow_res: 128, interpolation: true,
      mask: { data: new Uint8Array(0), shape: [0] }, mask_opacities: { data: new Float32Array(0), shape: [0] },
      model_matrix: {
        data: new Float32Array([nx / most, 0, 0, 0, 0, -ny / most, 0, 0, 0, 0, -nz / most, 0, 0, 0, 0, 1]),
        shape: [4, 4],
      },
    } // prettier-ignore
    this.#k3d.setClearColor(Number.parseInt(CSS('--ground').slice(1), 16))
    if (this.#shown) await this.#k3d.removeObject(1)
    await this.#k3d.load({ objects: [object] })
    this.#k3d.setColorMapLegend(0)
  }
}
