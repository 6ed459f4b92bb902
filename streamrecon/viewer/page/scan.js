// How the scan is doing: names, the plain line, the bar, the dial and the numbers.

import { ChangePlot } from './change.js'
import { Dial } from './dial.js'
import { bytes, number, reconstructionOf, seconds, unitOf } from './words.js'

const element = (id) => document.getElementById(id)

const LINKS = {
  connecting: 'connecting',
  lost: 'no server',
  refused: 'refused',
  waiting: 'waiting',
  live: 'live',
  gone: 'stream gone',
  missing: 'file gone',
  file: 'file',
}

export class ScanView {
  #dial = new Dial(element('dial'))
  #change = new ChangePlot(element('change'))
  #now = new Table(element('numbers-now'))
  #volume = new Table(element('numbers-volume'))
  #progress = null
  #update = null
  #last = '' // the reconstruction whose versions were shown before those of this one

  link(state, text) {
    const pill = element('link')
    if (pill.dataset.state !== state) {
      pill.dataset.state = state
      pill.textContent = LINKS[state]
    }
    pill.title = text
  }

  line(text) {
    if (element('line').textContent !== text) element('line').textContent = text
  }

  // Null where there is none, as of a file.
  progress(progress) {
    this.#progress = progress
    this.#show()
  }

  // Whether the version shown is of another reconstruction than the one in work, which has none yet. Word of the progress may be
  // late, and still of the one before.
  get before() {
    const [now, shown] = [reconstructionOf(this.#progress), reconstructionOf(this.#update)]
    return now !== '' && shown !== '' && now !== shown && now !== this.#last
  }

  update(update) {
    const before = reconstructionOf(this.#update)
    if (before !== reconstructionOf(update)) this.#last = before
    this.#update = update
    this.#change.take(update, this.#progress?.expected, !this.#progress)
    this.#show()
  }

  #show() {
    const update = this.before ? null : this.#update
    let progress = this.#progress
    // Word of the progress may be a little older than the version shown.
    if (progress && update) progress = { ...progress, projections: Math.max(progress.projections, update.projections) }
    const title = progress?.title || update?.title || progress?.uid || update?.uid || 'no scan yet'
    element('title').textContent = title
    element('title').title = progress?.uid || update?.uid || ''
    document.title = `${title} · streamrecon`
    element('version').textContent = this.#version()
    this.#bar(progress, update)
    // The engine may wait for the next scan already, and know nothing of it, while this one is shown.
    const own = progress && (!update || reconstructionOf(progress) === reconstructionOf(update)) ? progress : null
    // Of another program's file nothing is known of projections.
    const unknown = !progress && Boolean(update) && update.projections === 0
    for (const id of ['dial', 'bar']) element(id).toggleAttribute('hidden', unknown)
    this.#dial.show(own?.angles ?? update?.angles ?? progress?.angles ?? [], update?.angles ?? [], update?.coverage ?? null)
    this.#tell(progress, update, own)
  }

  #version() {
    const update = this.#update
    if (!update) return ''
    if (!this.#progress && update.projections === 0) return '' // another program's file
    if (this.before) {
      const same = this.#progress.uid === update.uid
      return `version ${update.version} of the ${same ? 'reconstruction' : 'scan'} before${same ? '' : ` (${update.title || update.uid})`}`
    }
    return `version ${update.version}, ${update.final ? 'final' : 'partial'}`
  }

  #bar(progress, update) {
    const expected = progress?.expected ?? (update?.final ? update.projections : null)
    const share = (n) => (expected ? `${Math.min(100, (100 * n) / expected)}%` : '0%')
    const bar = element('bar')
    bar.querySelector('.received').style.width = share(progress?.projections ?? update?.projections ?? 0)
    bar.querySelector('.volume').style.width = share(update?.projections ?? 0)
    bar.classList.toggle('unknown', !expected && Boolean(progress?.projections))
    bar.setAttribute('aria-valuenow', expected ? Math.round((100 * (progress?.projections ?? update.projections)) / expected) : 0)
  }

  #tell(progress, update, own) {
    const now = []
    if (progress) {
      const of = progress.expected ? ` / ${progress.expected}` : ''
      const lag = update ? Math.max(0, progress.projections - update.projections) : '–'
      now.push(
        ['received', `${progress.projections}${of}`, 'Projections received, of those announced'],
        ['shown', update ? `${update.projections}` : '–', 'Projections in the version shown'],
        ['lag', `${lag}`, 'Projections received that are not in the version shown'],
        ['rate', `${number(progress.rate, 3)} /s`, 'Frames received per second'],
        ['latency', seconds(progress.latency), "From a projection's arrival to the first version that holds it, median"],
        ['credit', progress.ring_frames ? `${progress.credit_frames} / ${progress.ring_frames}` : '–', 'Frames that the sender may send, of those that there is room for'],
      )
    } else if (update?.projections) {
      now.push(['projections', `${update.projections}`, 'In this volume'])
    }
    this.#now.show(now)
    const volume = []
    if (update) {
      const unit = unitOf(update)
      const mean = update.mean === null ? '–' : `${number(update.mean, 3)} ± ${number(update.deviation, 3)}`
      volume.push(
        ['volume', update.full.join(' × '), 'Slices, y and x'],
        ['center, filter', `${update.center === null ? '–' : update.center.toFixed(2)}, ${update.filter || '–'}`, 'Column of the rotation axis, pixels; filter of the backprojection'],
        [unit ? `mean ± dev., ${unit}` : 'mean ± dev.', mean, 'Of the values in the volume; of a large file, of some of its rows'],
      )
      if (update.binning > 1) volume.push(['binned', `${update.binning} × along each axis`, 'In this version'])
    }
    if (progress) {
      volume.push(['data, ranks, viewers', `${own ? bytes(progress.nbytes) : '–'}, ${progress.ranks}, ${progress.viewers}`, "Received; processes that reconstruct; pages' servers and programs that listen"])
      if (progress.dropped) volume.push(['dropped', `${progress.dropped} frames`, 'They are not in the volume'])
    }
    this.#volume.show(volume)
  }
}

// Names and texts, replaced in place.
class Table {
  #list
  #cells = new Map()

  constructor(list) {
    this.#list = list
  }

  // rows: [name, text, help]
  show(rows) {
    if (rows.map(([name]) => name).join() !== [...this.#cells.keys()].join()) {
      this.#cells.clear()
      this.#list.replaceChildren()
      this.#list.hidden = rows.length === 0
      for (const [name, , help] of rows) {
        const [term, value] = [document.createElement('dt'), document.createElement('dd')]
        term.textContent = name
        term.title = value.title = help
        this.#list.append(term, value)
        this.#cells.set(name, value)
      }
    }
    for (const [name, text] of rows) {
      const value = this.#cells.get(name)
      if (value.textContent !== text) value.textContent = text
    }
  }
}
