// The WebSocket to the server: the token first, one decoded message at a time, and back again when it breaks.

import { Signal } from './signal.js'

const AGAIN = { first: 500, most: 5000, crowded: 10000 } // ms
const SILENT = 20000 // ms
const TOKEN_REFUSED = 4401
const MALFORMED = 4400
const CROWDED = 4429

const HEADER = new TextDecoder()

// A binary message: length of the header, the header, and pixels that begin at a multiple of 8.
export function decode(buffer) {
  const length = new DataView(buffer).getUint32(0, true)
  const header = JSON.parse(HEADER.decode(new Uint8Array(buffer, 4, length)))
  const pixels = header.dtype === '<u2' ? new Uint16Array(buffer, 4 + length) : new Float32Array(buffer, 4 + length)
  const expected = header.shape.reduce((product, n) => product * n, 1)
  if (pixels.length !== expected) throw new Error(`${pixels.length} pixels for the shape ${header.shape}`)
  return { ...header, pixels }
}

export class Connection {
  // connecting for the first time, open, lost (tried again at `next`, or now) or refused (not tried again by itself)
  status = new Signal({ state: 'connecting', text: 'connecting to the server', next: 0 })
  onMessage = () => {} // (object)
  onPicture = () => {} // (decoded picture)

  #socket = null
  #token
  #wait = AGAIN.first
  #timer = 0
  #serial = 0
  #heard = 0
  #answers = new Map() // serial -> { resolve, reject, pictures }

  constructor(token) {
    this.#token = token
    setInterval(() => this.#check(), 5000)
    addEventListener('online', () => this.status.value.state === 'lost' && this.open())
    addEventListener('pagehide', () => this.#socket?.close())
    addEventListener('pageshow', (event) => event.persisted && this.open())
  }

  set token(token) {
    this.#token = token
    this.#wait = AGAIN.first
    this.open()
  }

  open() {
    clearTimeout(this.#timer)
    if (this.#socket) {
      this.#socket.onclose = null
      this.#socket.close()
    }
    if (!this.#token) {
      this.#tell('refused', 'This link has no token: open the one that the server printed when it started.')
      return
    }
    const { state, text } = this.status.value
    if (state === 'lost') this.#tell('lost', text)
    else this.#tell('connecting', 'connecting to the server')
    // Beside the page, wherever a proxy has put it.
    const address = new URL('ws', location.href)
    address.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:'
    address.hash = ''
    const socket = new WebSocket(address)
    socket.binaryType = 'arraybuffer'
    socket.onopen = () => socket.send(JSON.stringify({ type: 'hello', token: this.#token }))
    socket.onmessage = (event) => this.#receive(event.data)
    socket.onclose = (event) => this.#closed(event)
    this.#socket = socket
    this.#heard = Date.now()
  }

  // A tunnel that has died says nothing; the server says something every few seconds.
  #check() {
    if (!this.#socket || Date.now() - this.#heard < SILENT) return
    this.#socket.onclose = this.#socket.onmessage = null
    this.#socket.close()
    this.#closed({ code: 0 })
  }

  nextSerial() {
    return (this.#serial += 1)
  }

  send(message) {
    if (this.status.value.state !== 'open') return false
    this.#socket.send(JSON.stringify(message))
    return true
  }

  // Sends a message that is answered once: { done, text, pictures }, or an error.
  ask(message) {
    const serial = this.nextSerial()
    return new Promise((resolve, reject) => {
      if (!this.send({ ...message, serial })) reject(new Error('the server is not connected'))
      else this.#answers.set(serial, { resolve, reject, pictures: [] })
    })
  }

  #receive(data) {
    this.#heard = Date.now()
    if (data instanceof ArrayBuffer) {
      const picture = decode(data)
      const asked = picture.serial === undefined ? undefined : this.#answers.get(picture.serial)
      if (!asked) this.onPicture(picture)
      else if (picture.kind === 'centers') asked.pictures.push(picture)
      else this.#answer(picture.serial, 'resolve', picture)
      return
    }
    const message = JSON.parse(data)
    if (message.type === 'welcome') {
      this.#wait = AGAIN.first
      this.#tell('open', '')
    } else if (message.type === 'result') {
      const pictures = this.#answers.get(message.serial)?.pictures ?? []
      this.#answer(message.serial, 'resolve', { ...message, pictures })
      return
    } else if (message.type === 'error' && this.#answers.has(message.serial)) {
      this.#answer(message.serial, 'reject', new Error(message.text))
      return
    }
    this.onMessage(message)
  }

  #answer(serial, how, what) {
    const asked = this.#answers.get(serial)
    this.#answers.delete(serial)
    asked?.[how](what)
  }

  #closed(event) {
    this.#socket = null
    for (const serial of [...this.#answers.keys()]) {
      this.#answer(serial, 'reject', new Error('the connection broke before the answer came'))
    }
    if (event.code === TOKEN_REFUSED) {
      this.#tell('refused', 'The server does not accept the token of this link: open the one that it printed last.')
      return
    }
    let text = 'The page has lost its server.'
    if (event.code === CROWDED) text = 'The server has as many viewers as it takes.'
    if (event.code === MALFORMED) text = `The server did not understand this page${event.reason ? `: ${event.reason}` : ''}.`
    const wait = event.code === CROWDED ? AGAIN.crowded : this.#wait
    this.#wait = Math.min(AGAIN.most, this.#wait * 2)
    this.#tell('lost', text, Date.now() + wait)
    this.#timer = setTimeout(() => this.open(), wait)
  }

  #tell(state, text, next = 0) {
    this.status.value = { state, text, next }
  }
}
