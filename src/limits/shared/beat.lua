-- Says that a gateway is alive, and asks what the others counted: also the probe of a server that may refuse to write.
--
-- KEYS  1 epoch, 2 gateways alive, 3 records of all keys, then counters: those of `days`, then those of `spent` and what is held beside each, then
--       those of `windows`, of `quotas` and of `running`
-- ARGV  1 what is said, as JSON: instance, days, spent, windows, quotas (numbers of them), holding and running (ids of
--         requests in flight, by counter of `spent` and by counter of `running`), keep and hold (ms)
local ask = cjson.decode(ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- First, because a server whose memory is full refuses this one, and permits all that follow a permitted one.
redis.call('ZADD', KEYS[2], now, ask.instance)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ask.keep)
redis.call('PEXPIRE', KEYS[2], 10 * ask.keep)
local used, index = {}, 3
for _ = 1, ask.days do
  index = index + 1
  used[#used + 1] = redis.call('GET', KEYS[index]) or '0'
end
for i = 1, ask.spent do
  local sum = tonumber(redis.call('HGET', KEYS[index + 1], 'used') or '0')
  -- What requests that last long reserve stays reserved.
  for _, id in ipairs(ask.holding[i]) do
    local amount = string.match(redis.call('HGET', KEYS[index + 2], id) or '', ':(%d+)$')
    if amount then redis.call('HSET', KEYS[index + 2], id, string.format('%.0f:%s', now + ask.hold, amount)) end
  end
  redis.call('PEXPIRE', KEYS[index + 2], ask.hold)
  for _, entry in ipairs(redis.call('HVALS', KEYS[index + 2])) do
    local until_, amount = string.match(entry, '^(%d+):(%d+)$')
    if tonumber(until_) > now then sum = sum + tonumber(amount) end
  end
  index = index + 2
  used[#used + 1] = string.format('%.0f', sum)
end
local windows = {}
for i = 1, ask.windows do
  index = index + 1
  windows[i] = { count = redis.call('LLEN', KEYS[index]), last = tonumber(redis.call('LINDEX', KEYS[index], -1) or '0') }
end
local quotas = {}
for i = 1, ask.quotas do
  index = index + 1
  quotas[i] = table.concat(redis.call('HGETALL', KEYS[index]), ' ')
end
-- Requests that last long stay counted.
for _, ids in ipairs(ask.running) do
  index = index + 1
  for _, id in ipairs(ids) do redis.call('ZADD', KEYS[index], 'XX', now + ask.hold, id) end
  redis.call('PEXPIRE', KEYS[index], ask.hold)
end
local told = { now = now, epoch = redis.call('GET', KEYS[1]) or '', alive = redis.call('ZCARD', KEYS[2]) }
told.check = redis.call('HGET', KEYS[3], ':check') or nil
-- An empty table would be written as an object.
if #used > 0 then told.used = used end
if #windows > 0 then told.windows = windows end
if #quotas > 0 then told.quotas = quotas end
return cjson.encode(told)
