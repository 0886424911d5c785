-- Puts the keys of a team in the place of those that are here, if they are newer.
--
-- KEYS  1 records of all keys, 2 audit
-- ARGV  1 what is said, as JSON: source, host, revision, check (a hash of the team secret, if it is known); with it, once they are wanted: records (id, version, text, name) and lines
--         of the audit (revision, text)
local ask = cjson.decode(ARGV[1])
local known = redis.call('HMGET', KEYS[1], ':revision', ':source', ':host')
local revision = tonumber(known[1] or '-1')
if known[2] and known[2] ~= ask.source then return cjson.encode({ outcome = 'foreign', host = known[3] }) end
if revision == ask.revision and ask.check then redis.call('HSET', KEYS[1], ':check', ask.check) end
if revision >= ask.revision then return cjson.encode({ outcome = 'known' }) end
if not ask.records then return cjson.encode({ outcome = 'wanted' }) end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], ':revision', string.format('%.0f', ask.revision), ':source', ask.source, ':host', ask.host)
if ask.check then redis.call('HSET', KEYS[1], ':check', ask.check) end
for _, record in ipairs(ask.records) do
  redis.call('HSET', KEYS[1], record[1], record[2] .. ' ' .. record[3])
  if record[4] ~= '' then redis.call('HSET', KEYS[1], ':name:' .. record[4], record[1]) end
end
for _, line in ipairs(ask.lines) do
  if line[1] > revision then redis.call('XADD', KEYS[2], 'MAXLEN', '~', '100000', '*', 'change', line[2]) end
end
return cjson.encode({ outcome = 'published' })
