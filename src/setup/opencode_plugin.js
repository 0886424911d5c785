// Written by `qwenauth setup opencode`; `qwenauth setup opencode --remove` removes it.
// Asks qwenauth for the key of each request, so that a session outlives a token.
import { execFile } from "node:child_process"

const [program, ...args] = [/* command */]

const key = () =>
  new Promise((resolve, reject) =>
    execFile(program, args, (error, stdout, stderr) =>
      error ? reject(new Error(stderr.trim() || error.message)) : resolve(stdout.trim()),
    ),
  )

export const Qwenauth = async () => ({
  config: async (config) => {
    const options = config.provider?.qwenauth?.options
    if (!options) return
    options.apiKey = "asked of qwenauth for each request"
    options.fetch = async (input, init) => {
      const headers = new Headers(init?.headers)
      headers.set("authorization", `Bearer ${await key()}`)
      return fetch(input, { ...init, headers })
    }
  },
})
