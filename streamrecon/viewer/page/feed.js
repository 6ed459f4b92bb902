// What this page asks for: one `want` at a time, the next one when the pictures of the last are drawn.

const QUIET = 50 // ms between two, while somebody scrolls

export class Feed {
  #connection
  #describe
  #outstanding = 0
  #last = ''
  #sent = 0
  #timer = 0

  // describe() -> { places, size, preview, beside }, or null for nothing
  constructor(connection, describe) {
    this.#connection = connection
    this.#describe = describe
    connection.status.listen(({ state }) => {
      this.#outstanding = 0
      this.#last = ''
      if (state === 'open') this.#send()
    })
  }

  // Other places are looked at now.
  changed() {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.#send(true), Math.max(0, this.#sent + QUIET - performance.now()))
  }

  // An update has come; `drawn` is called with it, then the next one is asked for. A hidden page draws nothing, and asks for nothing.
  updated(serial, drawn) {
    requestAnimationFrame(() => {
      drawn()
      setTimeout(() => {
        if (serial === this.#outstanding) this.#send()
      })
    })
  }

  #send(onlyOther = false) {
    const wish = this.#describe()
    if (!wish) return
    const text = JSON.stringify(wish)
    if (onlyOther && text === this.#last) return
    const serial = this.#connection.nextSerial()
    if (!this.#connection.send({ type: 'want', serial, ...wish })) return
    this.#outstanding = serial
    this.#last = text
    this.#sent = performance.now()
  }
}
