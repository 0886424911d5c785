-- The token of a login for an edge.
--
-- KEYS  1 token, 2 home
-- ARGV  1 what is said, as JSON: known (the generation that is not sent again)
local ask = cjson.decode(ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local told = { generation = tonumber(redis.call('HGET', KEYS[1], 'generation') or '0') }
if told.generation > 0 then
  if told.generation ~= ask.known then told.sealed = redis.call('HGET', KEYS[1], 'sealed') end
  told.left = math.max(0, tonumber(redis.call('HGET', KEYS[1], 'ends') or '0') - now)
end
local at = tonumber(redis.call('HGET', KEYS[2], 'at') or '0')
if at > 0 then
  told.home = redis.call('HGET', KEYS[2], 'home')
  told.silent = math.max(0, now - at)
end
return cjson.encode(told)
