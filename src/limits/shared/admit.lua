-- Decides one request: its key's record, then every limit, and counts it only when all of them agree.
--
-- KEYS  1 epoch, 2 records of all keys, 3 when each key was used last, then those that the limits name by their index
-- ARGV  1 what is asked, as JSON: epoch, key and record (whose key asks, and the version of its record that is known), id,
--         wait (most ms), hold (ms), limits
--
-- Time is this server's alone. A window is a sorted list of the times at which its requests go out, future ones included; a
-- request goes to the first time at which no window would hold more than its limit, so nobody who waits is overtaken for
-- a time that could have been theirs.
local ask = cjson.decode(ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local HOUR, DAY = 3600000, 86400000

local function answer(kind, fields)
  fields.kind, fields.now = kind, now
  return cjson.encode(fields)
end

if (redis.call('GET', KEYS[1]) or '') ~= ask.epoch then return answer('epoch', {}) end
if ask.key then
  local record = redis.call('HGET', KEYS[2], ask.key)
  if not record then return answer('unknown', { complete = redis.call('HEXISTS', KEYS[2], ':revision') == 1 }) end
  local version, text = string.match(record, '^(%S+) (.*)$')
  if version ~= ask.record then return answer('record', { version = version, record = text }) end
end

-- What is planned in a window. Where nothing is planned for later, its end is all that matters; else the whole list.
local function planned(limit)
  local key = KEYS[limit.key]
  local last = tonumber(redis.call('LINDEX', key, -1) or '0')
  -- The clock went back, after a failover: begin anew.
  if last > now + HOUR then
    redis.call('DEL', key)
    return { last = 0, count = 0, first = now }
  end
  local first
  for _ = 1, 64 do
    first = redis.call('LINDEX', key, 0)
    if not first or tonumber(first) + limit.window > now then break end
    redis.call('LPOP', key)
  end
  local count = redis.call('LLEN', key)
  if last <= now then
    local full = count >= limit.limit and tonumber(redis.call('LINDEX', key, -limit.limit)) or nil
    return { last = last, count = count, first = tonumber(first or now), full = full }
  end
  local list = redis.call('LRANGE', key, 0, -1)
  for i = 1, #list do list[i] = tonumber(list[i]) end
  return { last = last, count = count, first = tonumber(first or now), list = list }
end

-- The first time from `at` on at which no window holds more than its limit.
local function room(plan, limit, at)
  if not plan.list then
    return plan.full and math.max(at, plan.full + limit.window) or at
  end
  local list = plan.list
  for i = 1, #list - limit.limit + 1 do
    local begins, ends = list[i], list[i + limit.limit - 1]
    if ends - begins < limit.window and at > ends - limit.window and at < begins + limit.window then
      at = begins + limit.window
    end
  end
  return at
end

-- The same for tokens, which are counted by slices of the window. One request alone always fits.
local function token_room(slices, limit, at)
  local sum, numbers = 0, {}
  for slice, amount in pairs(slices) do
    sum = sum + amount
    numbers[#numbers + 1] = slice
  end
  table.sort(numbers)
  for _, slice in ipairs(numbers) do
    local ends = (slice + 1) * limit.slice + limit.window
    if ends <= at then
      sum = sum - slices[slice]
    elseif sum > 0 and sum + limit.add > limit.limit then
      at = ends
      sum = sum - slices[slice]
    else
      break
    end
  end
  return at
end

local held, plans, left, last, first = {}, {}, {}, {}, {}
for i, limit in ipairs(ask.limits) do
  local key = KEYS[limit.key]
  held[i], left[i], last[i], first[i] = 0, 0, 0, 0
  if limit.kind == 'window' then
    plans[i] = planned(limit)
  elseif limit.kind == 'tokens' then
    local slices, hash = {}, redis.call('HGETALL', key)
    for f = 1, #hash, 2 do
      local slice = tonumber(hash[f])
      if (slice + 1) * limit.slice + limit.window <= now or slice * limit.slice > now + HOUR then
        redis.call('HDEL', key, hash[f])
      else
        slices[slice] = tonumber(hash[f + 1])
      end
    end
    plans[i] = slices
  elseif limit.kind == 'quota' then
    local used, counts, numbers, hash = 0, {}, {}, redis.call('HGETALL', key)
    for f = 1, #hash, 2 do
      local slice, count = tonumber(hash[f]), tonumber(hash[f + 1])
      -- The clock went back, after a failover: they count from now on.
      if slice * limit.slice > now + HOUR then
        redis.call('HDEL', key, hash[f])
        slice = math.floor(now / limit.slice)
        redis.call('HINCRBY', key, slice, count)
      end
      if (slice + 1) * limit.slice + limit.window <= now then
        redis.call('HDEL', key, hash[f])
      else
        if not counts[slice] then numbers[#numbers + 1] = slice end
        counts[slice] = (counts[slice] or 0) + count
        used = used + count
      end
    end
    if used >= limit.limit then
      table.sort(numbers)
      local rest, ends = used, now
      for _, slice in ipairs(numbers) do
        if rest < limit.limit then break end
        rest = rest - counts[slice]
        ends = (slice + 1) * limit.slice + limit.window
      end
      return answer('refused', { limit = i, wait = ends - now })
    end
    left[i] = limit.limit - used - 1
  elseif limit.kind == 'parallel' then
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
    local count = redis.call('ZCARD', key)
    if count >= limit.limit then return answer('refused', { limit = i, wait = 0 }) end
    left[i] = limit.limit - count - 1
  else
    local used = 0
    if limit.kind == 'day' then
      used = tonumber(redis.call('GET', key) or '0')
    else
      used = tonumber(redis.call('HGET', key, 'used') or '0')
      local hash = redis.call('HGETALL', KEYS[limit.held])
      for f = 1, #hash, 2 do
        local until_, amount = string.match(hash[f + 1], '^(%d+):(%d+)$')
        if tonumber(until_) <= now then
          redis.call('HDEL', KEYS[limit.held], hash[f])
        else
          used = used + tonumber(amount)
        end
      end
    end
    -- Another period than the one that was asked about: it is asked again before it is refused.
    if now < limit.begins then return answer('period', { at = now }) end
    if used >= limit.limit and now < limit.ends then
      return answer('refused', { limit = i, wait = limit.ends - now })
    end
    held[i] = math.min(limit.add, limit.limit - used)
    left[i] = limit.limit - used - held[i]
  end
end

local at, binding = now, 0
repeat
  local before = at
  for i, limit in ipairs(ask.limits) do
    local earliest = at
    if limit.kind == 'window' then
      at = room(plans[i], limit, at)
    elseif limit.kind == 'tokens' then
      at = token_room(plans[i], limit, at)
    end
    if at > earliest then binding = i end
  end
until at == before
if at - now > ask.wait then return answer('refused', { limit = binding, wait = at - now }) end
for _, limit in ipairs(ask.limits) do
  if limit.ends and at >= limit.ends then return answer('period', { at = at }) end
end

for i, limit in ipairs(ask.limits) do
  local key = KEYS[limit.key]
  if limit.kind == 'window' then
    local plan, later = plans[i], nil
    if plan.list then
      for n = #plan.list, 1, -1 do
        if plan.list[n] <= at then break end
        later = plan.list[n]
      end
    end
    if later then redis.call('LINSERT', key, 'BEFORE', later, at) else redis.call('RPUSH', key, at) end
    last[i] = math.max(at, plan.last)
    first[i] = math.min(at, plan.first)
    redis.call('PEXPIRE', key, last[i] - now + 2 * limit.window)
    left[i] = math.max(0, limit.limit - plan.count - 1)
  elseif limit.kind == 'tokens' then
    local sum = limit.add
    for _, amount in pairs(plans[i]) do sum = sum + amount end
    redis.call('HINCRBY', key, math.floor(at / limit.slice), limit.add)
    redis.call('PEXPIRE', key, at - now + 2 * limit.window)
    left[i] = math.max(0, limit.limit - sum)
  elseif limit.kind == 'quota' then
    redis.call('HINCRBY', key, math.floor(at / limit.slice), 1)
    redis.call('PEXPIRE', key, at - now + 2 * limit.window)
  elseif limit.kind == 'parallel' then
    redis.call('ZADD', key, at + ask.hold, ask.id)
    redis.call('PEXPIRE', key, at - now + ask.hold)
  elseif limit.kind == 'day' then
    redis.call('INCRBY', key, held[i])
    redis.call('PEXPIRE', key, limit.ends - now + DAY)
  else
    redis.call('HSET', KEYS[limit.held], ask.id, string.format('%.0f:%.0f', at + ask.hold, held[i]))
    redis.call('PEXPIRE', KEYS[limit.held], at - now + ask.hold)
  end
end
if ask.key then redis.call('HSET', KEYS[3], ask.key, now) end
if #ask.limits == 0 then return answer('go', { at = at }) end
-- Written out: cjson keeps 14 digits.
for i = 1, #left do left[i], held[i] = string.format('%.0f', left[i]), string.format('%.0f', held[i]) end
return answer('go', { at = at, left = left, last = last, first = first, held = held })
