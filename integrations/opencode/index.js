// opencode plugin: lists the Qwen login in `opencode auth login` and uses the login that qwenauth keeps.
//
// Nothing secret passes to opencode: its auth.json gets a marker, and the key of each request is requested from qwenauth,
// which renews it. The key is sent to the profile's own origin only.
import { execFile } from "node:child_process"

const ID = "qwenauth"
const PROGRAM = "qwenauth"
const MARKER = "kept by qwenauth"
const LOGIN_TIMEOUT = "15m"

const failure = (error, stderr) => {
  if (error.code === "ENOENT") return new Error("qwenauth was not found; install it, then retry")
  const line = stderr.split("\n").find((line) => line.includes("error: "))
  return new Error(line ? line.replace(/^.*error: /, "") : error.message)
}

const run = (...args) =>
  new Promise((resolve, reject) =>
    execFile(PROGRAM, args, { maxBuffer: 4 << 20 }, (error, stdout, stderr) => {
      // `status` exits with 4 where nobody is logged in, and still answers.
      if (error && !(args[0] === "status" && stdout)) reject(failure(error, stderr))
      else resolve(stdout)
    }),
  )

const originOf = (url) => {
  try {
    return new URL(url).origin
  } catch {
    return undefined
  }
}

// The active profile, offline. Nobody is logged in: the profile has no provider or base URL.
const activeProfile = async () => {
  const [profile] = JSON.parse(await run("status", "--json")).profiles ?? []
  return profile?.base_url && profile.state !== "missing" ? profile : undefined
}

const descriptionOf = async (name) => JSON.parse(await run("providers", name, "--json")).providers?.[0] ?? {}

// A `fetch` for requests with the key of `profile`, which goes to that profile's host and nowhere else.
const sender = (profile, headers) => async (input, init) => {
  const request = new Request(input, init)
  if (originOf(request.url) !== originOf(profile.base_url)) return fetch(request)
  const key = (await run("token", "--profile", profile.profile)).trim()
  request.headers.set("authorization", `Bearer ${key}`)
  const agent = request.headers.get("user-agent") ?? "opencode"
  for (const [name, value] of Object.entries(headers ?? {})) {
    request.headers.set(name, value.replaceAll("{user-agent}", agent))
  }
  return fetch(request)
}

const entryOf = (model) => {
  const entry = { name: model.name || model.id }
  // opencode takes a limit only with both figures; an answer is never longer than the context.
  if (model.context) entry.limit = { context: model.context, output: model.output ?? model.context }
  if (model.input?.length) entry.modalities = { input: model.input, output: ["text"] }
  if (model.input?.some((kind) => kind !== "text")) entry.attachment = true
  return entry
}

const providerOf = (profile, description) => {
  const models = Object.fromEntries((description.models ?? []).map((model) => [model.id, entryOf(model)]))
  if (profile.model) models[profile.model] ??= { name: profile.model }
  return {
    npm: "@ai-sdk/openai-compatible",
    name: `${description.title ?? profile.provider} (qwenauth)`,
    options: { baseURL: profile.base_url, apiKey: MARKER, fetch: sender(profile, description.headers) },
    models,
  }
}

// Starts or joins a login; its code is the first event.
const startLogin = async () => {
  const lines = (await run("login", "qwen", "--no-wait", "--no-browser", "--json")).trim().split("\n")
  const event = JSON.parse(lines[0])
  if (event.event === "error") throw new Error(event.message)
  if (event.event !== "device_code") {
    return { url: "https://chat.qwen.ai", instructions: "Already logged in.", method: "auto", callback: succeed }
  }
  return {
    url: event.verification_uri_complete ?? event.verification_uri,
    instructions: `Enter code: ${event.user_code}`,
    method: "auto",
    callback: finishLogin,
  }
}

const succeed = async () => ({ type: "success", key: MARKER })

const finishLogin = async () => {
  try {
    await run("login", "qwen", "--resume", "--no-browser", "--json", "--timeout", LOGIN_TIMEOUT)
    return await succeed()
  } catch {
    return { type: "failed" }
  }
}

export const QwenauthPlugin = async () => ({
  auth: {
    provider: ID,
    loader: async () => ({}),
    methods: [{ type: "oauth", label: "Qwen login (kept by qwenauth)", authorize: startLogin }],
  },
  config: async (config) => {
    config.provider ??= {}
    const options = config.provider[ID]?.options
    // `qwenauth exec`, `qwenauth setup` or the user have configured this provider already.
    if (options?.apiKey || options?.fetch || options?.baseURL) return
    let profile
    try {
      profile = await activeProfile()
    } catch {
      return
    }
    if (!profile) return
    const provider = providerOf(profile, await descriptionOf(profile.provider))
    config.provider[ID] = { ...provider, ...config.provider[ID], options: { ...options, ...provider.options } }
  },
})

export default QwenauthPlugin
