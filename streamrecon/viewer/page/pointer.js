// What a mouse, a pen or fingers do on a slice.

const NOTCH = 40 // of a wheel, at least, for a step

// Places and distances are CSS pixels from the element's upper left corner.
export function watchPointer(element, { set, hover, scroll, zoom, pan, fit }) {
  const held = new Map() // pointers that are down
  let panning = false
  let turned = 0

  const place = (event) => {
    const box = element.getBoundingClientRect()
    return [event.clientX - box.left, event.clientY - box.top]
  }

  element.addEventListener('pointerdown', (event) => {
    if (event.pointerType === 'mouse' && event.button > 2) return
    element.setPointerCapture(event.pointerId)
    held.set(event.pointerId, place(event))
    panning = event.shiftKey || event.button > 0
    if (held.size === 1 && !panning) set(...place(event))
  })

  element.addEventListener('pointermove', (event) => {
    const now = place(event)
    hover(...now)
    const before = held.get(event.pointerId)
    if (!before) return
    held.set(event.pointerId, now)
    if (held.size === 2) {
      const [other] = [...held].filter(([id]) => id !== event.pointerId).map(([, at]) => at)
      const apart = (at) => Math.hypot(at[0] - other[0], at[1] - other[1]) || 1
      zoom(apart(now) / apart(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2)
      pan((now[0] - before[0]) / 2, (now[1] - before[1]) / 2)
    } else if (panning) {
      pan(now[0] - before[0], now[1] - before[1])
    } else {
      set(...now)
    }
  })

  const release = (event) => held.delete(event.pointerId)
  element.addEventListener('pointerup', release)
  element.addEventListener('pointercancel', release)
  element.addEventListener('pointerleave', () => hover(null, null))
  element.addEventListener('contextmenu', (event) => event.preventDefault())
  element.addEventListener('dblclick', fit)

  element.addEventListener(
    'wheel',
    (event) => {
      event.preventDefault()
      // With Shift, browsers call it a wheel that turns sideways.
      const delta = event.deltaY || event.deltaX
      const distance = event.deltaMode === 0 ? delta : delta * NOTCH
      if (event.ctrlKey || event.metaKey) {
        zoom(Math.exp(-distance / 300), ...place(event))
        return
      }
      // A wheel turns by notches, a touchpad by many small amounts.
      turned = Math.sign(distance) === Math.sign(turned) ? turned + distance : distance
      if (Math.abs(turned) < NOTCH) return
      scroll(Math.sign(turned) * (event.shiftKey ? 10 : 1))
      turned = 0
    },
    { passive: false },
  )
}
