-- What is used of limits, without counting anything.
--
-- KEYS  those that the limits name by their index
-- ARGV  1 what is asked, as JSON: limits
local ask = cjson.decode(ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local seen = {}
for i, limit in ipairs(ask.limits) do
  local key, used, held, resets = KEYS[limit.key], 0, 0, 0
  if limit.kind == 'window' then
    for _, at in ipairs(redis.call('LRANGE', key, 0, -1)) do
      if tonumber(at) + limit.window > now then
        if used == 0 then resets = tonumber(at) + limit.window - now end
        used = used + 1
      end
    end
  elseif limit.kind == 'tokens' or limit.kind == 'quota' then
    local hash = redis.call('HGETALL', key)
    for f = 1, #hash, 2 do
      local ends = (tonumber(hash[f]) + 1) * limit.slice + limit.window
      if ends > now then
        used = used + tonumber(hash[f + 1])
        if resets == 0 or ends - now < resets then resets = ends - now end
      end
    end
  elseif limit.kind == 'parallel' then
    used = redis.call('ZCOUNT', key, '(' .. now, '+inf')
  elseif limit.kind == 'day' then
    used = tonumber(redis.call('GET', key) or '0')
  else
    used = tonumber(redis.call('HGET', key, 'used') or '0')
    for _, entry in ipairs(redis.call('HVALS', KEYS[limit.held])) do
      local until_, amount = string.match(entry, '^(%d+):(%d+)$')
      if tonumber(until_) > now then held = held + tonumber(amount) end
    end
  end
  seen[i] = { used = string.format('%.0f', math.max(0, used)), held = string.format('%.0f', held), resets = resets }
end
-- An empty table would be written as an object.
if #seen == 0 then return cjson.encode({ now = now }) end
return cjson.encode({ now = now, seen = seen })
