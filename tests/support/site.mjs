// A small web site on Node, whose TLS is OpenSSL 3.5: one page over HTTP/2 or HTTP/1.1.
//
//   node site.mjs CERTIFICATE KEY PAGE     all of them files
//
// Says "ready PORT" once it listens on loopback, and ends with its standard input.

import { readFileSync } from 'node:fs'
import { createSecureServer } from 'node:http2'

const [cert, key, page] = process.argv.slice(2).map((file) => readFileSync(file))

// How long it waits for a handshake and for a next request, as the nginx of these tests does.
const patience = 3000

const server = createSecureServer({ cert, key, allowHTTP1: true, handshakeTimeout: patience })
server.keepAliveTimeout = patience
server.on('session', (session) => session.setTimeout(patience, () => session.close()))
server.on('request', (request, response) => {
  response.setHeader('content-type', 'text/html')
  response.end(page)
})
server.listen(0, '127.0.0.1', () => console.log(`ready ${server.address().port}`))
process.stdin.on('end', () => process.exit()).resume()
