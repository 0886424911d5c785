#!/usr/bin/env node
// Starts the program of this platform. Where Node can, this process becomes it; else signals and the exit code pass through.
'use strict'

const { spawn } = require('node:child_process')
const { constants } = require('node:os')

const name = `@qwenauth/${process.platform}-${process.arch}`
const file = process.platform === 'win32' ? 'qwenauth.exe' : 'qwenauth'

function fail(message, hint) {
  process.stderr.write(`qwenauth: error: ${message}\nqwenauth: hint: ${hint}\n`)
  process.exit(1)
}

let program
try {
  program = require.resolve(`${name}/bin/${file}`)
} catch {
  fail(`the package \`${name}\` is missing`, 'install qwenauth again, without `--omit=optional` or `--no-optional`')
}

const options = process.argv.slice(2)

// Node 22.15 and later, not on Windows. A failure here has no better cause to report than that of `spawn` below.
if (typeof process.execve === 'function' && process.platform !== 'win32') {
  try {
    process.execve(program, ['qwenauth', ...options], process.env)
  } catch {}
}

// What the keyboard sends reaches both processes, and a second SIGINT means something else than one; what `kill` sends
// reaches this process alone. With a terminal the former is taken for granted.
const terminal = [0, 1, 2].some((descriptor) => require('node:tty').isatty(descriptor))
const typed = process.platform === 'win32' ? ['SIGINT', 'SIGBREAK'] : ['SIGINT', 'SIGQUIT', 'SIGWINCH']
const sent = process.platform === 'win32' ? [] : ['SIGTERM', 'SIGHUP', 'SIGUSR1', 'SIGUSR2']
const passed = [...typed, ...sent]
// Before the program is started: a signal in between would end this process alone. What arrives waits until `spawn` is done.
let child
for (const signal of passed) {
  process.on(signal, () => {
    if (!terminal || sent.includes(signal)) child.kill(signal)
  })
}

child = spawn(program, options, { argv0: 'qwenauth', stdio: 'inherit', windowsHide: true })
child.on('error', (error) => fail(`cannot run \`${program}\`: ${error.code}`, 'install qwenauth again'))
child.on('exit', (code, signal) => {
  if (signal === null) process.exit(code)
  for (const each of passed) process.removeAllListeners(each)
  // Ends as the program ended, so that a shell sees the same; what a process survives becomes a code.
  process.kill(process.pid, signal)
  setTimeout(() => process.exit(128 + constants.signals[signal]), 100)
})
