// Written by `qwenauth setup opencode`; `qwenauth setup opencode --remove` removes it.
// Gets the key of each request from qwenauth, so that a session can last longer than a token, and sends it only to the profile's host.
import { execFile } from "node:child_process"

const [program, ...args] = [/* command */]
const origin = "/* origin */"
const headers = {/* headers */}

const key = () =>
  new Promise((resolve, reject) =>
    execFile(program, args, (error, stdout, stderr) =>
      error ? reject(new Error(stderr.trim() || error.message)) : resolve(stdout.trim()),
    ),
  )

const originOf = (url) => {
  try {
    return new URL(url).origin
  } catch {
    return undefined
  }
}

const send = async (input, init) => {
  const request = new Request(input, init)
  if (originOf(request.url) !== origin) return fetch(request)
  request.headers.set("authorization", `Bearer ${await key()}`)
  const agent = request.headers.get("user-agent") ?? "opencode"
  for (const [name, value] of Object.entries(headers)) {
    request.headers.set(name, value.replaceAll("{user-agent}", agent))
  }
  return fetch(request)
}

export const Qwenauth = async () => ({
  config: async (config) => {
    const options = config.provider?.qwenauth?.options
    // Another host, or a key of its own (`qwenauth exec`, a project's file): left unchanged.
    if (!options || options.apiKey || originOf(options.baseURL) !== origin) return
    options.apiKey = "asked of qwenauth for each request"
    options.fetch = send
  },
})
