// A value that can be listened to.

export class Signal {
  #value
  #listeners = new Set()

  constructor(value) {
    this.#value = value
  }

  get value() {
    return this.#value
  }

  set value(value) {
    this.#value = value
    for (const listener of this.#listeners) listener(value)
  }

  // Told of every value from now on, and of the one now.
  follow(listener) {
    this.#listeners.add(listener)
    listener(this.#value)
  }

  // Told of every value from now on.
  listen(listener) {
    this.#listeners.add(listener)
  }
}

// What a browser remembers of this page from one visit to the next; it may refuse to.
export function remembered(name, otherwise) {
  try {
    return localStorage.getItem(`streamrecon.${name}`) ?? otherwise
  } catch {
    return otherwise
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(`streamrecon.${name}`, String(value))
  } catch {
    // Then it is asked again next time.
  }
}
