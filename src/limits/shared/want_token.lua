-- An edge wants a newer token of a login than the one that was refused.
--
-- KEYS  1 wanted
-- ARGV  1 what is said, as JSON: generation
local ask = cjson.decode(ARGV[1])
local wanted = tonumber(redis.call('GET', KEYS[1]) or '0')
if ask.generation > wanted then
  wanted = ask.generation
  redis.call('SET', KEYS[1], wanted)
end
redis.call('PEXPIRE', KEYS[1], 60000)
return cjson.encode(wanted)
