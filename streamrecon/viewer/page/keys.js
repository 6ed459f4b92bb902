// The keyboard, wherever the focus is but in a field; a slice's slider keeps its arrows only.

import { AXES, PLANES } from './view.js'
import { switchTheme } from './theme.js'

const ARROWS = { ArrowLeft: ['across', -1], ArrowRight: ['across', 1], ArrowUp: ['down', -1], ArrowDown: ['down', 1] }
const PAN = 0.08 // of what is seen

export function watchKeys(view, panels, contrast) {
  const simple = {
    '+': () => view.zoom(1.25),
    '=': () => view.zoom(1.25),
    '-': () => view.zoom(0.8),
    0: () => view.fit(),
    m: () => panels[view.active.value].toggleAlone(),
    a: () => contrast.auto(),
    l: () => contrast.lock(),
    c: () => contrast.nextMap(),
    i: () => contrast.invert(),
    x: () => AXES.forEach((axis) => panels[axis].toggleCross()),
    s: () => panels[view.active.value].savePng(),
    t: switchTheme,
    '?': () => document.getElementById('help').showModal(),
  }
  AXES.forEach((axis, n) => {
    simple[n + 1] = () => {
      if (view.alone.value) view.alone.value = axis
      panels[axis].focus()
    }
  })

  addEventListener('keydown', (event) => {
    if (event.defaultPrevented || event.altKey || event.metaKey || document.querySelector('dialog[open]')) return
    const ofSlice = event.target.closest('.panel input[type=range]')
    if (!ofSlice && event.target.closest('input, select, textarea')) return
    const onButton = ofSlice || event.target.closest('button, summary, [role=slider]')
    if (ofSlice) view.active.value = ofSlice.closest('[data-axis]').dataset.axis
    const axis = view.active.value
    const plane = PLANES[axis]
    const many = event.shiftKey ? 10 : 1
    if (event.key in ARROWS && !onButton) {
      const [way, by] = ARROWS[event.key]
      if (event.ctrlKey) view.pan({ [plane[way]]: (by * PAN * view.full.value?.[plane[way]]) / view.seen.value.zoom })
      else view.step(plane[way], by * many)
    } else if (event.key === 'PageUp' || event.key === 'PageDown') {
      view.step(axis, (event.key === 'PageUp' ? -1 : 1) * many)
    } else if (event.key in simple && !event.ctrlKey) {
      simple[event.key]()
    } else return
    event.preventDefault()
  })
}
