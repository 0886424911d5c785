-- A token of a login's home, unless a newer one is there.
--
-- KEYS  1 token
-- ARGV  1 what is said, as JSON: generation, sealed, left (ms)
local ask = cjson.decode(ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local shown = tonumber(redis.call('HGET', KEYS[1], 'generation') or '0')
if ask.generation < shown then return cjson.encode(shown) end
redis.call('HSET', KEYS[1], 'generation', ask.generation, 'sealed', ask.sealed, 'ends', now + ask.left)
redis.call('PEXPIRE', KEYS[1], ask.left + 60000)
return cjson.encode(ask.generation)
