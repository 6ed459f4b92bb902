// Numbers and lengths as people read them.

export function number(value, digits = 4) {
  if (value === null || value === undefined || Number.isNaN(value)) return '–'
  if (value === 0) return '0'
  const size = Math.abs(value)
  if (size >= 1e6 || size < 1e-3) return value.toExponential(Math.max(0, digits - 2)).replace('e+', 'e')
  return value.toFixed(Math.max(0, digits - 1 - Math.floor(Math.log10(size))))
}

export function bytes(value) {
  const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB']
  const n = value > 0 ? Math.min(units.length - 1, Math.floor(Math.log10(value) / 3)) : 0
  return `${number(value / 1000 ** n, 3)} ${units[n]}`
}

export function seconds(value) {
  if (value === null || value === undefined) return '–'
  return value < 1 ? `${Math.round(value * 1000)} ms` : `${number(value, 3)} s`
}

// Metres.
export function length(value) {
  const size = Math.abs(value)
  const [unit, name] = size < 1e-6 ? [1e-9, 'nm'] : size < 1e-3 ? [1e-6, 'µm'] : [1e-3, 'mm']
  return `${Number((value / unit).toPrecision(3))} ${name}`
}

// Metres, of places that are so far apart, all in one unit.
export function lengths(values, step) {
  const [unit, name] = step < 1e-8 ? [1e-9, 'nm'] : step < 1e-5 ? [1e-6, 'µm'] : [1e-3, 'mm']
  const digits = Math.max(0, 1 - Math.floor(Math.log10(step / unit)))
  return `${values.map((value) => (value / unit).toFixed(digits)).join(', ')} ${name}`
}

// Of the values: what a file says, or of absorption.
export function unitOf(update) {
  return update?.unit ?? (update?.pixel_size ? '1/m' : '1/pixel')
}

// The largest of 1, 2, 5 times a power of ten that is not more than this.
export function round(most) {
  const power = 10 ** Math.floor(Math.log10(most))
  return power * [5, 2, 1].find((each) => each * power <= most * (1 + 1e-9))
}

// Which reconstruction of which scan a version, a picture or word of the progress is of; '' of none.
export function reconstructionOf(message) {
  return message?.uid ? `${message.uid} ${message.reconstruction}` : ''
}

// A name for a file.
export function fileName(...parts) {
  return parts.filter((part) => part !== '' && part !== undefined).join('_').replaceAll(/[^\w.-]+/g, '-')
}
