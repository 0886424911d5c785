-- Adds what a gateway admitted by itself while the server was away. An emptied server first gets back the largest counts
-- that any gateway saw, each gateway's part of a window, and an epoch of its own.
--
-- KEYS  1 epoch, 2 gateways that have given back their counts in this epoch, 3 there while the others are waited for, then
--       counters, each followed by a note of what it was restored to
-- ARGV  1 what is said, as JSON: instance, epoch (as this gateway knows it), new (an epoch to begin where there is none),
--       wait (ms that others have to give back theirs),
--       counters: kind, key, base, seen (at the loss), told (counted alone, and known to the server unless it was emptied
--         since), add, keep (ms), window (ms), slice (ms), times, added, ids; of `tokens` times and added are pairs of a
--         time and an amount, and so are told and added of `quota`, whose seen are pairs of a slice and a count
local ask = cjson.decode(ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = redis.call('GET', KEYS[1])
local epoch = known or ask.new
-- First, because a server whose memory is full refuses this one, and permits all that follow a permitted one.
redis.call('SET', KEYS[1], epoch)
if not known then
  redis.call('DEL', KEYS[2])
  redis.call('SET', KEYS[3], '1', 'PX', ask.wait)
end
local restores = epoch ~= ask.epoch and redis.call('SADD', KEYS[2], ask.instance) == 1
for _, counter in ipairs(ask.counters) do
  local key, base = KEYS[counter.key], KEYS[counter.base]
  if counter.kind == 'window' then
    local list = redis.call('LRANGE', key, 0, -1)
    for i = 1, #list do list[i] = tonumber(list[i]) end
    for _, at in ipairs(restores and counter.times or counter.added) do
      if at + counter.window > now and at < now + 3600000 then list[#list + 1] = at end
    end
    table.sort(list)
    redis.call('DEL', key)
    for _, at in ipairs(list) do redis.call('RPUSH', key, at) end
    if #list > 0 then redis.call('PEXPIRE', key, math.max(0, list[#list] - now) + 2 * counter.window) end
  elseif counter.kind == 'tokens' then
    for _, pair in ipairs(restores and counter.times or counter.added) do
      local slice = math.floor(pair[1] / counter.slice)
      if (slice + 1) * counter.slice + counter.window > now and pair[1] < now + 3600000 then
        redis.call('HINCRBY', key, slice, pair[2])
        redis.call('PEXPIRE', key, math.max(0, pair[1] - now) + 2 * counter.window)
      end
    end
  elseif counter.kind == 'quota' then
    local function add(slice, amount)
      if amount > 0 and (slice + 1) * counter.slice + counter.window > now then redis.call('HINCRBY', key, slice, amount) end
    end
    for _, pair in ipairs(restores and counter.seen or {}) do
      local slice, amount = pair[1], pair[2]
      local known = tonumber(redis.call('HGET', base, slice) or '0')
      if amount > known then
        add(slice, amount - known)
        redis.call('HSET', base, slice, amount)
      end
    end
    for _, pair in ipairs(restores and counter.told or {}) do add(math.floor(pair[1] / counter.slice), pair[2]) end
    for _, pair in ipairs(counter.added) do add(math.floor(pair[1] / counter.slice), pair[2]) end
    redis.call('PEXPIRE', key, 2 * counter.window)
    redis.call('PEXPIRE', base, counter.window)
  elseif counter.kind == 'parallel' then
    for _, id in ipairs(counter.ids) do
      redis.call('ZADD', key, now + counter.keep, id)
      redis.call('PEXPIRE', key, counter.keep)
    end
  else
    local more = counter.add
    if restores then
      more = more + counter.told
      local known = tonumber(redis.call('GET', base) or '0')
      if counter.seen > known then
        more = more + counter.seen - known
        redis.call('SET', base, counter.seen, 'PX', counter.keep)
      end
    end
    if more > 0 then
      if counter.kind == 'day' then redis.call('INCRBY', key, more) else redis.call('HINCRBY', key, 'used', more) end
      redis.call('PEXPIRE', key, counter.keep)
    end
  end
end
local is_waiting = redis.call('EXISTS', KEYS[3]) == 1
return cjson.encode({ now = now, epoch = epoch, restored = redis.call('SCARD', KEYS[2]), is_waiting = is_waiting })
