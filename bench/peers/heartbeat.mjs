// Heartbeats in Node.js, one statement each: node:http and postgres.
//
//   node heartbeat.mjs STATEMENT_FILE, with DATABASE_URL, JWT_SECRET and PORT in the environment
//
// It answers a heartbeat of a session as the service does. A verified token is kept.
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import postgres from 'postgres'

const CONNECTIONS = 16
const { DATABASE_URL, JWT_SECRET, PORT } = process.env
const STATEMENT = readFileSync(process.argv[2], 'utf8')

const address = new URL(DATABASE_URL)
const sql = postgres({
  host: address.searchParams.get('host') ?? address.hostname,
  port: Number(address.searchParams.get('port') ?? address.port ?? 5432),
  user: address.searchParams.get('user') ?? address.username,
  password: address.password,
  database: address.pathname.slice(1),
  max: CONNECTIONS,
  connection: { plan_cache_mode: 'force_generic_plan', jit: 'off' },
})
const accounts = new Map() // by token

// The account of a token, whose signature is checked the first time only; null if it is invalid.
function verified(token) {
  let known = accounts.get(token)
  if (!known) {
    const [header, claims, signature] = token.split('.')
    if (!signature || decoded(header).alg !== 'HS256') return null
    const expected = createHmac('sha256', JWT_SECRET).update(`${header}.${claims}`).digest()
    const received = Buffer.from(signature, 'base64url')
    if (received.length !== expected.length || !timingSafeEqual(received, expected)) return null
    const { sub, exp } = decoded(claims)
    accounts.set(token, (known = { id: sub, expires: exp * 1000 }))
  }
  return Date.now() < known.expires ? known.id : null
}

const decoded = (part) => JSON.parse(Buffer.from(part, 'base64url'))

// Writes a heartbeat in a statement of its own and decides by the committed balance.
async function record(accountId, beat) {
  const { profile_id, title_id, session_id, is_paused = false } = beat
  const values = [accountId, profile_id, title_id, session_id, is_paused, timeOrderedId()]
  const [row] = await sql.unsafe(STATEMENT, values, { prepare: true })
  if (!row) return null
  const answer = {
    session_id,
    enforcement: 'allowed',
    remaining_minutes: null,
    used_minutes: 0,
    is_educational: row.is_educational,
  }
  if (!row.is_child) return answer
  answer.used_minutes = minutes(row.used_seconds)
  if (row.limit_minutes === null || row.is_unlimited) return answer
  const left = Math.max(0, 60 * row.limit_minutes - row.used_seconds)
  answer.remaining_minutes = minutes(left)
  if (left === 0) answer.enforcement = 'blocked'
  else if (left <= 5 * 60) answer.enforcement = 'warning_5'
  else if (left <= 15 * 60) answer.enforcement = 'warning_15'
  return answer
}

const minutes = (seconds) => Math.round((seconds / 60) * 100) / 100

// A UUID of version 7.
function timeOrderedId() {
  const id = randomBytes(16)
  id.writeUIntBE(Date.now(), 0, 6)
  id[6] = (id[6] & 0x0f) | 0x70
  id[8] = (id[8] & 0x3f) | 0x80
  return id.toString('hex')
}

async function heartbeat(request, response, body) {
  const accountId = verified((request.headers.authorization ?? '').replace(/^Bearer /, ''))
  if (!accountId) return reply(response, 401, { detail: 'Could not validate credentials' })
  const answer = await record(accountId, JSON.parse(body))
  reply(response, answer ? 200 : 404, answer ?? { detail: 'Session not found' })
}

function reply(response, status, body) {
  const text = JSON.stringify(body)
  response.writeHead(status, {
    'Content-Type': 'application/json',
    'Cache-Control': 'no-store',
    'Content-Length': Buffer.byteLength(text),
  })
  response.end(text)
}

const server = createServer((request, response) => {
  if (request.url !== '/api/v1/viewing-time/heartbeat') return reply(response, 200, {})
  const chunks = []
  request.on('data', (chunk) => chunks.push(chunk))
  request.on('end', () =>
    heartbeat(request, response, Buffer.concat(chunks)).catch((error) => {
      console.error(error)
      reply(response, 503, { detail: 'Service unavailable' })
    }),
  )
})
server.keepAliveTimeout = 75_000
server.listen({ port: Number(PORT), host: '127.0.0.1', backlog: 2048 })
