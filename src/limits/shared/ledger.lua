-- Adds what passed through a gateway, once by its sequence.
--
-- KEYS  1 the last sequence of this gateway, then one hash for each day
-- ARGV  1 what is said, as JSON: sequence, keep (ms), rows: key (index of the day), of (whose, as JSON), counts (by name)
local ask = cjson.decode(ARGV[1])
if ask.sequence <= tonumber(redis.call('GET', KEYS[1]) or '0') then return 0 end
redis.call('SET', KEYS[1], ask.sequence, 'PX', 86400000)
for _, row in ipairs(ask.rows) do
  for name, amount in pairs(row.counts) do
    -- A server may state any number of tokens.
    redis.pcall('HINCRBY', KEYS[row.key], name .. ' ' .. row.of, string.format('%.0f', amount))
  end
end
for i = 2, #KEYS do redis.call('PEXPIRE', KEYS[i], ask.keep) end
return 1
