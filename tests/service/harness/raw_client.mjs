// A WebSocket client made of a TCP socket and RFC 6455, in another language: it shares no code with either side.
// node raw_client.mjs URL COUNT: prints the text frames, one a line, answers PINGs, and leaves after COUNT events.
import { createHash, randomBytes } from 'node:crypto'
import { connect } from 'node:net'

const url = new URL(process.argv[2].replace(/^ws:/, 'http:'))
let wanted = Number(process.argv[3])
const key = randomBytes(16).toString('base64')
const accept = createHash('sha1').update(key + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11').digest('base64')
const socket = connect(Number(url.port), url.hostname)
socket.write(
  `GET ${url.pathname}${url.search} HTTP/1.1\r\nHost: ${url.host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n` +
    `Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${key}\r\n\r\n`,
)

function send(opcode, payload) {
  const mask = randomBytes(4)
  const masked = Buffer.from(payload.map((byte, index) => byte ^ mask[index % 4]))
  socket.write(Buffer.concat([Buffer.from([0x80 | opcode, 0x80 | payload.length]), mask, masked]))
}

function* frames(data) {
  for (let at = 0; data.length - at >= 2; ) {
    let size = data[at + 1]
    let from = at + 2
    if (size === 126) (size = data.length - from < 2 ? Infinity : data.readUInt16BE(from)), (from += 2)
    else if (size === 127) (size = data.length - from < 8 ? Infinity : Number(data.readBigUInt64BE(from))), (from += 8)
    if (data.length < from + size) return
    yield { opcode: data[at] & 15, payload: data.subarray(from, from + size), end: from + size }
    at = from + size
  }
}

let buffer = Buffer.alloc(0)
let open = false
socket.on('data', (data) => {
  buffer = Buffer.concat([buffer, data])
  if (!open) {
    const end = buffer.indexOf('\r\n\r\n')
    if (end < 0) return
    const head = buffer.subarray(0, end).toString()
    if (!head.startsWith('HTTP/1.1 101') || !head.includes(accept)) throw new Error(head)
    buffer = buffer.subarray(end + 4)
    open = true
  }
  let done = 0
  for (const { opcode, payload, end } of frames(buffer)) {
    done = end
    if (opcode === 1) {
      console.log(payload.toString())
      if (JSON.parse(payload).type.endsWith('_update')) wanted -= 1
    } else if (opcode === 9) {
      send(10, payload)
      if (wanted <= 0) send(8, Buffer.from([0x03, 0xe8]))
    } else if (opcode === 8) socket.end()
  }
  buffer = buffer.subarray(done)
})
