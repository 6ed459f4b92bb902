// Hands on the reconstruction, for those with the control token: each asks the server, and shows what it answered.

import { Candidates } from './candidates.js'

const ANSWERS = 4 // kept
const FIELDS = { center: 'center', filter: 'filter', side: 'side-pixels', every: 'every', interval: 'interval' }
const LATE = 1500 // ms after an answer in which word of the progress may be older
const STOP = 'Stop the scan …'
const element = (id) => document.getElementById(id)

export class Hands {
  candidates
  #connection
  #center = null // of the engine
  #paused = false
  #advised = false
  #columns = 0
  #typed = false // whether there is a center that somebody tries
  #progress = null // the last word of it

  constructor(connection, view, contrast) {
    this.#connection = connection
    this.candidates = new Candidates(this, view, contrast)
    const on = (id, does) => element(id).addEventListener('click', does)
    element('hands').addEventListener('submit', (event) => event.preventDefault())
    element('center-slide').addEventListener('input', () => {
      this.#typed = true
      element('center').value = element('center-slide').value
      this.candidates.around(Number(element('center').value))
    })
    element('center').addEventListener('input', () => {
      this.#typed = true
      if (this.#tried !== null) this.candidates.around(this.#tried)
    })
    // Word of the progress comes where there is something new: what was typed and left is put right by itself.
    element('hands').addEventListener('focusout', () => this.#again(0))
    on('center-set', () => {
      if (this.#tried === null) this.#say('refused', 'center: type a column first, or let the engine find it')
      else this.setCenter(this.#tried)
    })
    on('center-find', () => this.ask('center'))
    on('center-compare', () => this.candidates.toggle(this.#tried ?? this.#center))
    element('filter').addEventListener('change', (event) => this.ask('filter', [], event.target.value))
    this.#field('side-pixels', 'side-set', 'side')
    this.#field('every', 'every-set', 'every')
    this.#field('interval', 'interval-set', 'interval')
    this.#enter('center', 'center-set')
    on('snapshot', () => this.ask('snapshot'))
    on('pause', () => this.ask(this.#paused ? 'resume' : 'pause'))
    on('stop', () => (this.#advised ? this.ask('advise_stop') : element('stop-dialog').showModal()))
    on('stop-cancel', () => element('stop-dialog').close())
    element('stop-why').addEventListener('input', ({ target }) => {
      target.setCustomValidity(target.value.trim() ? '' : 'Whoever runs the scan needs a reason.')
    })
    element('stop-dialog').addEventListener('close', (event) => {
      if (event.target.returnValue === 'stop') this.ask('advise_stop', [], element('stop-why').value.trim())
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
    const line = this.#say('waits', `${words(action)} …`)
    const field = FIELDS[action]
    const mine = (latest[field] = {})
    asked[field] = Infinity
    try {
      const answer = await this.#connection.ask({ type: 'control', action, numbers, text })
      line.className = answer.done ? 'done' : 'refused'
      line.textContent = answer.text || words(action)
      if (!answer.done) this.#restore(action)
      return answer
    } catch (error) {
      line.className = 'refused'
      line.textContent = `${words(action)}: ${error.message}`
      this.#restore(action)
      return null
    } finally {
      if (latest[field] === mine) asked[field] = Date.now() + LATE
      this.#again(LATE + 1)
    }
  }

  // Without a line in the list of answers.
  askQuietly(action, numbers) {
    return this.#connection.ask({ type: 'control', action, numbers, text: '' })
  }

  progress(progress) {
    this.#progress = progress
    this.#paused = progress.paused
    this.#advised = Boolean(progress.advice)
    element('stop').textContent = this.#advised ? 'Withdraw the advice' : STOP
    element('stop').classList.toggle('danger', !this.#advised)
    element('pause').textContent = progress.paused ? 'Resume' : 'Pause'
    element('pause').setAttribute('aria-pressed', String(progress.paused))
    keep('filter', progress.filter)
    keep('side-pixels', progress.side ?? '')
    keep('every', progress.every ?? '')
    keep('interval', progress.interval ?? '')
    this.#size(progress.columns)
    this.#take(progress.center)
  }

  update(update) {
    this.candidates.update(update)
  }

  #again(wait) {
    setTimeout(() => this.#progress && this.progress(this.#progress), wait)
  }

  get #tried() {
    const text = element('center').value
    return text === '' ? null : Number(text)
  }

  #size(columns) {
    if (columns === this.#columns) return
    this.#columns = this.candidates.columns = columns
    const slide = element('center-slide')
    slide.disabled = columns === 0
    if (columns === 0) return
    slide.max = columns - 1
    if (this.#center !== null) slide.value = this.#center
  }

  #take(center) {
    const compare = element('center-compare')
    compare.disabled = center === null && !this.candidates.open
    compare.title = center === null ? 'The engine does not know a center yet, around which there are others' : ''
    const other = center !== this.#center
    this.#center = center
    // What was tried and left is not so; while candidates are compared it is what they are around.
    const goesOn = this.#typed && (this.candidates.open || isAt(element('center-set'), element('center-compare')))
    if (!goesOn && !isAt(element('center'), element('center-slide')) && !(Date.now() < asked.center)) this.#showCenter()
    if (!other) return
    element('center-now').textContent = center === null ? '' : `now ${center.toFixed(2)}`
    this.candidates.now = center
  }

  #showCenter() {
    this.#typed = false
    put('center', this.#center === null ? '' : Number(this.#center.toFixed(2)))
    if (this.#center !== null) element('center-slide').value = this.#center
  }

  // The strip was closed.
  compared() {
    this.#typed = false
    this.#again(0)
  }

  // What was refused is not so: the field has again what the engine has.
  #restore(action) {
    if (action === 'center') this.#showCenter()
    else if (action in FIELDS) element(FIELDS[action]).value = known[FIELDS[action]] ?? ''
  }

  #say(kind, text) {
    const line = document.createElement('li')
    line.className = kind
    line.textContent = text
    const list = element('answers')
    list.prepend(line)
    while (list.children.length > ANSWERS) list.lastChild.remove()
    return line
  }

  #field(field, button, action) {
    element(button).addEventListener('click', () => {
      const text = element(field).value
      if (text === '' && !element(field).placeholder) this.#say('refused', `${action}: type a number first`)
      else this.ask(action, text === '' ? [] : [Number(text)])
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

// A field has what the engine has, unless somebody is at it, or at its button, or has asked for something just now.
const known = {} // what the engine has
const latest = {} // the last request about it
const asked = {} // until when word of the progress may be older than the answer
function keep(id, value) {
  known[id] = value
  const button = (element(id).closest('.with-unit') ?? element(id)).nextElementSibling
  if (!isAt(element(id), button) && !(Date.now() < asked[id])) put(id, value)
}

function isAt(...elements) {
  return elements.includes(document.activeElement)
}

function put(id, value) {
  const text = String(value)
  if (element(id).value !== text) element(id).value = text
}

function words(action) {
  return action.replaceAll('_', ' ')
}
