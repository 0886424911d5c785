-- The home of a login says that it is there, and asks what edges want.
--
-- KEYS  1 token, 2 wanted, 3 home
-- ARGV  1 what is said, as JSON: id, home
local ask = cjson.decode(ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local told = {
  generation = tonumber(redis.call('HGET', KEYS[1], 'generation') or '0'),
  wanted = tonumber(redis.call('GET', KEYS[2]) or '0'),
}
-- Who wrote after this one last did lives.
local id = redis.call('HGET', KEYS[3], 'id')
if id and id ~= ask.id then told.other = redis.call('HGET', KEYS[3], 'home') end
redis.call('HSET', KEYS[3], 'id', ask.id, 'home', ask.home, 'at', now)
redis.call('PEXPIRE', KEYS[3], 7 * 86400000)
return cjson.encode(told)
