// The angles covered, as sectors of the full circle: outside those received, inside those in the volume shown.

const SVG = 'http://www.w3.org/2000/svg'
const RINGS = { received: [44, 54], volume: [31, 42] }

export class Dial {
  #paths = {}
  #text

  constructor(svg) {
    this.svg = svg
    for (const [name, [inner, outer]] of Object.entries(RINGS)) {
      const ring = this.#add('circle', `ring ${name}`)
      ring.setAttribute('r', (inner + outer) / 2)
      ring.setAttribute('stroke-width', outer - inner)
      this.#paths[name] = this.#add('path', name)
    }
    this.#text = this.#add('text', 'share')
    const small = this.#add('text', 'what')
    small.setAttribute('y', 14)
    small.textContent = 'covered'
    this.#text.setAttribute('y', 2)
  }

  // Projections in each of equal parts of the full circle.
  show(received, volume, coverage) {
    this.#paths.received.setAttribute('d', sectors(received, RINGS.received))
    this.#paths.volume.setAttribute('d', sectors(volume, RINGS.volume))
    const text = coverage === null ? '–' : `${Math.round(coverage * 100)} %`
    this.#text.textContent = text
    this.svg.setAttribute('aria-label', `Angles covered: ${text}`)
  }

  #add(name, kind) {
    const made = document.createElementNS(SVG, name)
    made.setAttribute('class', kind)
    this.svg.append(made)
    return made
  }
}

// One path of all parts that have something, neighbours joined. Angle 0 is to the right, and they grow against the clock.
function sectors(parts, [inner, outer]) {
  const n = parts.length
  let path = ''
  for (let first = 0; first < n; ) {
    if (!parts[first]) {
      first += 1
      continue
    }
    let end = first
    while (end < n && parts[end]) end += 1
    // A full ring is two halves: an arc from a point to itself is none.
    const cuts = end - first > n / 2 ? [first, (first + end) / 2, end] : [first, end]
    for (let k = 0; k + 1 < cuts.length; k += 1) path += sector(cuts[k] / n, cuts[k + 1] / n, inner, outer)
    first = end
  }
  return path
}

function sector(from, to, inner, outer) {
  const at = (share, radius) => {
    const angle = -2 * Math.PI * share
    return `${(radius * Math.cos(angle)).toFixed(2)} ${(radius * Math.sin(angle)).toFixed(2)}`
  }
  return `M${at(from, outer)}A${outer} ${outer} 0 0 0 ${at(to, outer)}L${at(to, inner)}A${inner} ${inner} 0 0 1 ${at(from, inner)}Z`
}
