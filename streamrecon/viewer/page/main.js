// Puts the page together.

import { Beside } from './beside.js'
import { Connection } from './connection.js'
import { Contrast } from './contrast.js'
import { Feed } from './feed.js'
import { Hands } from './hands.js'
import { watchKeys } from './keys.js'
import { Pictures } from './pictures.js'
import { saveNpy, savePng } from './save.js'
import { ScanView } from './scan.js'
import { remember, remembered } from './signal.js'
import { createPanels } from './slices.js'
import { switchTheme } from './theme.js'
import { AXES, AXIS_NAMES, PLANES, View } from './view.js'
import { VolumeView } from './volume.js'
import { lengths, number, unitOf } from './words.js'

const PREVIEW = { slices: 64, volume: 128 } // voxels of the longest side
const SIZES = [128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096] // so that few sizes are encoded for many viewers
const element = (id) => document.getElementById(id)

function token() {
  const text = location.hash.slice(1)
  return new URLSearchParams(text).get('token') ?? text
}

const view = new View()
const pictures = new Pictures()
const contrast = new Contrast()
const scan = new ScanView()
const connection = new Connection(token())
const panels = await createPanels(view, element('slices'))
const beside = await Beside.create()
const hands = new Hands(connection, view, contrast)
const volume = new VolumeView()
const feed = new Feed(connection, wish)
let update = null // the newest
let link = null
let mayChange = false

function wish() {
  const longest = Math.max(...AXES.map((axis) => panels[axis].pixels)) * devicePixelRatio
  const places = AXES.filter((axis) => view.alone.value === '' || view.alone.value === axis)
  return {
    places: view.full.value ? places.map((axis) => [axis, view.point.value[axis]]) : [],
    size: SIZES.find((size) => size >= longest) ?? SIZES.at(-1),
    preview: volume.open && volume.available ? PREVIEW.volume : PREVIEW.slices,
    beside: element('section-beside').open,
  }
}

function draw() {
  const newest = update?.version ?? 0
  contrast.measure(AXES.map((axis) => pictures.slice(axis, view.point.value[axis])).filter(Boolean))
  for (const axis of AXES) panels[axis].show(pictures, contrast, newest)
  if (element('section-beside').open) beside.show(pictures, link?.state === 'file')
  volume.show(pictures.preview, contrast)
  readout()
}

function newScan(uid) {
  if (!update || uid === update.uid) return
  contrast.forget()
  for (const axis of AXES) panels[axis].clear()
}

connection.onPicture = (picture) => pictures.take(picture)

connection.onMessage = (message) => {
  if (message.type === 'welcome') {
    element('role').textContent = 'control'
    element('role').title = `Server ${message.program}`
    mayChange = message.role === 'control'
    volume.available = message.volume
  } else if (message.type === 'link') {
    link = message
    // A file does nothing, and nothing can be done to it.
    const file = link.state === 'file' || link.state === 'missing'
    if (file) scan.progress(null)
    hands.shown = mayChange && !file
    element('role').hidden = !mayChange || file
    told()
  } else if (message.type === 'progress') {
    scan.line(message.line)
    if (message.uid !== undefined) {
      scan.progress(message)
      dim()
      hands.progress(message)
    }
  } else if (message.type === 'update') {
    feed.updated(message.serial, () => updated(message))
  } else if (message.type === 'error') {
    scan.line(message.text)
  }
}

function updated(message) {
  const sameScan = update?.uid === message.uid
  newScan(message.uid)
  update = message
  view.resize(message.full, sameScan)
  for (const axis of AXES) panels[axis].voxel = message.pixel_size
  element('unit').textContent = unitOf(message)
  scan.update(message)
  dim()
  if (link?.state === 'file') scan.line(fileWords())
  hands.update(message)
  draw()
  element('slices').dataset.updates = Number(element('slices').dataset.updates ?? 0) + 1
}

function fileWords() {
  return update ? `${volumeWords(update)}: ${link.text}` : link.text
}

function volumeWords({ final, projections }) {
  return projections ? `${final ? 'Finished' : 'Partial'} volume of ${projections} projections` : 'Volume'
}

// How the page is connected to the server, and the server to the stream.
function told() {
  const { state, text } = connection.status.value
  const open = state === 'open'
  scan.link(open ? (link?.state ?? 'connecting') : state, open ? (link?.text ?? '') : text)
  dim()
  if (state === 'lost') scan.line('What is shown is from before the connection broke.')
  else if (state === 'refused') scan.line('Nothing is shown without the right token.')
  else if (!open) scan.line(text)
  else if (link?.state === 'file') scan.line(fileWords())
  else if (link && link.state !== 'live') scan.line(link.text)
  notice()
}

// What is not of now: of a connection that is lost, or of the scan before.
function dim() {
  const stale = connection.status.value.state !== 'open' || link?.state === 'gone' || link?.state === 'missing' || scan.before
  for (const axis of AXES) panels[axis].stale = stale
}

let ticking = 0
function notice() {
  const { state, text, next } = connection.status.value
  clearTimeout(ticking)
  element('notice').hidden = state !== 'lost' && state !== 'refused'
  element('notice-retry').hidden = state !== 'lost'
  const left = Math.ceil((next - Date.now()) / 1000)
  element('notice-text').textContent = state === 'lost' ? `${text} ${left > 0 ? `Next try in ${left} s.` : 'Trying now.'}` : text
  if (state === 'lost') ticking = setTimeout(notice, 500)
}

connection.status.listen(({ state }) => {
  if (state !== 'open') link = null
  told()
})
element('notice-retry').addEventListener('click', () => connection.open())
addEventListener('hashchange', () => (connection.token = token()))

// What is under the cursor, or at the point.
let hovered = null // { axis, at }: a panel, and CSS pixels in it
function readout() {
  const full = view.full.value
  if (!full) return
  const axis = hovered?.axis ?? view.active.value
  const place = hovered ? panels[axis].place(...hovered.at) : view.point.value
  const inside = AXES.every((each) => place[each] >= -0.5 && place[each] < full[each] - 0.5)
  element('readout-what').textContent = hovered ? 'cursor' : 'point'
  const at = (each) => String(Math.round(place[each])).padStart(String(full[each] - 1).length, '\u2007')
  element('readout-voxel').textContent = inside ? AXES.map((each) => `${AXIS_NAMES[each]} ${at(each)}`).join('  ') : 'outside'
  const pixel = update?.pixel_size
  // As the axes of volume.h5: x and y from the middle, slices from the first.
  const from = (each) => (each === 'z' ? place.z : place[each] - (full[each] - 1) / 2) * pixel
  element('readout-place').textContent = pixel && inside ? lengths(AXES.map(from), pixel) : ''
  const { across, down } = PLANES[axis]
  const found = inside ? panels[axis].value(place[across] + 0.5, place[down] + 0.5) : undefined
  element('readout-value').textContent = found === undefined ? '' : valueWords(found)
}

function valueWords({ value, sign, across, down }) {
  return `${sign}${number(value)} ${unitOf(update)}${across * down > 1 ? ` (mean of ${across} × ${down})` : ''}`.trim()
}

for (const axis of AXES) {
  const panel = panels[axis]
  const title = () => update?.title || update?.uid || ''
  panel.onHover = (at) => {
    if (at) hovered = { axis, at }
    else if (hovered?.axis === axis) hovered = null
    readout()
  }
  panel.onLook = () => {
    readout()
    feed.changed()
  }
  panel.onDraw = readout
  panel.savePng = () => panel.picture && savePng(panel.picture, contrast, title())
  panel.onButton('png', panel.savePng)
  panel.onButton('npy', async () => {
    try {
      saveNpy(await connection.ask({ type: 'values', axis, index: view.point.value[axis] }), title())
    } catch (error) {
      scan.line(`The values of this slice: ${error.message}`)
    }
  })
}

view.point.listen(() => {
  if (!update) return
  for (const axis of AXES) panels[axis].show(pictures, contrast, update.version)
  readout()
  feed.changed()
})
view.full.listen(() => feed.changed())
view.alone.listen((axis) => {
  element('slices').classList.toggle('one', axis !== '')
  feed.changed()
})
view.active.listen(readout)
contrast.changed.listen(() => {
  for (const axis of AXES) panels[axis].redraw(contrast)
  volume.show(pictures.preview, contrast)
})

for (const section of document.querySelectorAll('#side > details')) {
  if (section.id !== 'section-volume') section.open = remembered(section.id, 'true') === 'true'
  section.addEventListener('toggle', () => {
    remember(section.id, section.open)
    feed.changed()
    if (update) draw()
  })
}
element('theme').addEventListener('click', switchTheme)
element('help-open').addEventListener('click', () => element('help').showModal())
watchKeys(view, panels, contrast)
connection.open()
