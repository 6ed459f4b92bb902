// Hands on the reconstruction, for those with the control token: each asks the server, and shows what it answered.

import { Candidates } from './candidates.js'

const ANSWERS = 4 // kept
const AROUND = 20 // pixels of the center's slider to each side, at least
const element = (id) => document.getElementById(id)

export class Hands {
  candidates
  #connection
  #center = null // of the engine
  #paused = false

  constructor(connection, view, contrast) {
    this.#connection = connection
    this.candidates = new Candidates(this, view, contrast)
    const on = (id, does) => element(id).addEventListener('click', does)
    element('hands').addEventListener('submit', (event) => event.preventDefault())
    element('center-slide').addEventListener('input', () => {
      element('center').value = element('center-slide').value
      this.candidates.around(Number(element('center').value))
    })
    element('center').addEventListener('input', () => this.#tried !== null && this.candidates.around(this.#tried))
    on('center-set', () => this.#tried !== null && this.setCenter(this.#tried))
    on('center-find', () => this.ask('center'))
    on('center-compare', () => this.candidates.toggle(this.#tried ?? this.#center))
    element('filter').addEventListener('change', (event) => this.ask('filter', [], event.target.value))
    this.#field('side-pixels', 'side-set', 'side')
    this.#field('every', 'every-set', 'every')
    this.#field('interval', 'interval-set', 'interval')
    this.#enter('center', 'center-set')
    on('snapshot', () => this.ask('snapshot'))
    on('pause', () => this.ask(this.#paused ? 'resume' : 'pause'))
    on('stop', () => element('stop-dialog').showModal())
    element('stop-dialog').addEventListener('close', (event) => {
      const why = element('stop-why').value.trim()
      if (event.target.returnValue === 'stop' && why) this.ask('advise_stop', [], why)
      event.target.returnValue = ''
    })
  }

  set shown(shown) {
    element('section-hands').hidden = !shown
    if (!shown) this.candidates.close()
  }

  setCenter(center) {
    element('center').value = center
    return this.ask('center', [center])
  }

  // The answer, or null where none came; said either way.
  async ask(action, numbers = [], text = '') {
    const line = document.createElement('li')
    line.className = 'waits'
    line.textContent = `${words(action)} …`
    const list = element('answers')
    list.prepend(line)
    while (list.children.length > ANSWERS) list.lastChild.remove()
    try {
      const answer = await this.#connection.ask({ type: 'control', action, numbers, text })
      line.className = answer.done ? 'done' : 'refused'
      line.textContent = answer.text || words(action)
      return answer
    } catch (error) {
      line.className = 'refused'
      line.textContent = `${words(action)}: ${error.message}`
      return null
    }
  }

  // Without a line in the list of answers.
  askQuietly(action, numbers) {
    return this.#connection.ask({ type: 'control', action, numbers, text: '' })
  }

  progress(progress) {
    this.#paused = progress.paused
    element('pause').textContent = progress.paused ? 'Resume' : 'Pause'
    element('pause').setAttribute('aria-pressed', String(progress.paused))
    keep('filter', progress.filter)
    keep('every', progress.every ?? '')
    keep('interval', progress.interval ?? '')
    this.#take(progress.center)
  }

  update(update) {
    if (this.#center === null) this.#take(update.center)
    this.candidates.update(update)
  }

  get #tried() {
    const text = element('center').value
    return text === '' ? null : Number(text)
  }

  #take(center) {
    if (center === null || center === this.#center) return
    this.#center = center
    element('center-now').textContent = `now ${center.toFixed(2)}`
    const slide = element('center-slide')
    if (slide.min === '' || center < Number(slide.min) || center > Number(slide.max)) {
      const around = Math.max(AROUND, center * 0.04)
      slide.min = Math.floor(center - around)
      slide.max = Math.ceil(center + around)
    }
    if (document.activeElement !== element('center') && document.activeElement !== slide) {
      element('center').value = Number(center.toFixed(2))
      slide.value = center
    }
    this.candidates.now = center
  }

  #field(field, button, action) {
    element(button).addEventListener('click', () => {
      const text = element(field).value
      this.ask(action, text === '' ? [] : [Number(text)])
    })
    this.#enter(field, button)
  }

  #enter(field, button) {
    element(field).addEventListener('keydown', (event) => {
      if (event.key !== 'Enter') return
      event.preventDefault()
      element(button).click()
    })
  }
}

// A field has what the engine has, unless somebody is at it.
const known = {}
function keep(id, value) {
  if (known[id] === value || document.activeElement === element(id)) return
  known[id] = value
  element(id).value = value
}

function words(action) {
  return action.replaceAll('_', ' ')
}
