// Loaded into Qwen Code by NODE_OPTIONS: its OAuth host, which nothing else can set, becomes the practice provider; and
// the files SIGNS/waits (the lock was found taken), SIGNS/unlocked (the lock was removed) and SIGNS/removed (the credentials
// were) grow each time, so that a test can await or prove those moments.
import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';

const provider = process.env.QWENAUTH_QWEN_OAUTH_URL;
const host = 'https://chat.qwen.ai/';
const fetchAnywhere = globalThis.fetch;
globalThis.fetch = (target, options) =>
  typeof target === 'string' && target.startsWith(host)
    ? fetchAnywhere(`${provider}/${target.slice(host.length)}`, options)
    : fetchAnywhere(target, options);

const { unlink, writeFile } = fs.promises;
const { appendFileSync, unlinkSync } = fs;
const isLock = (path) => String(path).endsWith('oauth_creds.lock');
const sign = (name) => appendFileSync(`${process.env.SIGNS}/${name}`, '.');

fs.promises.writeFile = async (path, ...rest) => {
  try {
    return await writeFile(path, ...rest);
  } catch (error) {
    if (isLock(path) && error.code === 'EEXIST') sign('waits');
    throw error;
  }
};
fs.promises.unlink = async (path) => {
  await unlink(path);
  if (String(path).endsWith('oauth_creds.json')) sign('removed');
};
fs.unlinkSync = (path) => {
  unlinkSync(path);
  if (isLock(path)) sign('unlocked');
};
syncBuiltinESMExports();
