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
  for (const [first, end] of runs(parts)) {
    // A full ring is two halves: an arc from a point to itself is none.
    const cuts = end - first > n / 2 ? [first, (first + end) / 2, end] : [first, end]
    for (let k = 0; k + 1 < cuts.length; k += 1) path += sector(cuts[k] / n, cuts[k + 1] / n, inner, outer)
  }
  return path
}

// First and one past the last of the parts in a row that have something. Steps between angles may be wider than a part: what lies
// between two is no gap, where most are as far apart.
function runs(parts) {
  const filled = [...parts.keys()].filter((n) => parts[n])
  const steps = filled.slice(1).map((n, at) => n - filled[at])
  const usual = [...steps].sort((a, b) => a - b)[Math.floor(steps.length / 2)] ?? 1
  const joined = Math.min(usual * 1.5, parts.length / 24)
  const found = []
  filled.forEach((n, at) => {
    if (at > 0 && steps[at - 1] <= Math.max(1, joined)) found.at(-1)[1] = n + 1
    else found.push([n, n + 1])
  })
  return found
}

function sector(from, to, inner, outer) {
  const at = (share, radius) => {
    const angle = -2 * Math.PI * share
    return `${(radius * Math.cos(angle)).toFixed(2)} ${(radius * Math.sin(angle)).toFixed(2)}`
  }
  return `M${at(from, outer)}A${outer} ${outer} 0 0 0 ${at(to, outer)}L${at(to, inner)}A${inner} ${inner} 0 0 1 ${at(from, inner)}Z`
}
