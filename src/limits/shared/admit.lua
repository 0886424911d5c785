-- Decides one request: its key's record, then every limit, and counts it only when all of them agree.
--
-- KEYS  1 epoch, 2 records of all keys, 3 when each key was used last, then one for each limit, of `spend` another one for
--         what is held
-- ARGV  1 epoch, 2 id, 3 most ms to wait, 4 ms to hold, 5 and 6 the key that asks and the version of its record that is known,
--         both empty where none is to be checked, then five for each limit: its kind, the limit, window and slice or begin
--         and end of the period, and what the request adds
--
-- Answers with the verdict, the time, and numbers, separated by spaces. Those of `go` are the time at which the request is
-- sent and, for each limit, what is left; of a window also the last and the first time in it, of `spend` what is held.
--
-- Time is this server's alone. A window is a sorted list of the times at which its requests go out, future ones included; a
-- request goes to the first time at which no window would hold more than its limit, so nobody who waits is overtaken for
-- a time that could have been theirs.
local call = redis.call
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local HOUR, DAY = 3600000, 86400000
local id, most_wait, hold, asker = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]

local function answer(verdict, ...)
  return verdict .. string.format(string.rep(' %.0f', 1 + select('#', ...)), now, ...)
end

if (call('GET', KEYS[1]) or '') ~= ARGV[1] then return answer('epoch') end
if asker ~= '' then
  local record = call('HGET', KEYS[2], asker)
  if not record then return answer('unknown', call('HEXISTS', KEYS[2], ':revision')) end
  local known = ARGV[6] .. ' '
  if string.sub(record, 1, #known) ~= known then return answer('record') .. ' ' .. record end
end

local limits, used_keys = {}, 3
for a = 7, #ARGV, 5 do
  used_keys = used_keys + 1
  local kind, one, two = ARGV[a], tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
  local limit = { kind = kind, limit = tonumber(ARGV[a + 1]), add = tonumber(ARGV[a + 4]), key = KEYS[used_keys] }
  if kind == 'day' then
    limit.begins, limit.ends = one, two
  elseif kind == 'spend' then
    limit.begins, limit.ends = one, two
    used_keys = used_keys + 1
    limit.held_key = KEYS[used_keys]
  else
    limit.window, limit.slice = one, two
  end
  limits[#limits + 1] = limit
end

-- What is planned in a window. Where nothing is planned for later, its end is all that matters; else the whole list.
local function planned(limit)
  local key = limit.key
  local last = tonumber(call('LINDEX', key, -1) or '0')
  -- The clock went back, after a failover: begin anew.
  if last > now + HOUR then
    call('DEL', key)
    return { last = 0, count = 0, first = now }
  end
  local first
  for _ = 1, 64 do
    first = call('LINDEX', key, 0)
    if not first or tonumber(first) + limit.window > now then break end
    call('LPOP', key)
  end
  local count = call('LLEN', key)
  if last <= now then
    local full = count >= limit.limit and tonumber(call('LINDEX', key, -limit.limit)) or nil
    return { last = last, count = count, first = tonumber(first or now), full = full }
  end
  local list = call('LRANGE', key, 0, -1)
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

local waits = false
for i, limit in ipairs(limits) do
  local key = limit.key
  if limit.kind == 'window' then
    limit.plan, waits = planned(limit), true
  elseif limit.kind == 'tokens' then
    local slices, hash = {}, call('HGETALL', key)
    for f = 1, #hash, 2 do
      local slice = tonumber(hash[f])
      if (slice + 1) * limit.slice + limit.window <= now or slice * limit.slice > now + HOUR then
        call('HDEL', key, hash[f])
      else
        slices[slice] = tonumber(hash[f + 1])
      end
    end
    limit.plan, waits = slices, true
  elseif limit.kind == 'quota' then
    local used, counts, numbers, hash = 0, {}, {}, call('HGETALL', key)
    for f = 1, #hash, 2 do
      local slice, count = tonumber(hash[f]), tonumber(hash[f + 1])
      -- The clock went back, after a failover: they count from now on.
      if slice * limit.slice > now + HOUR then
        call('HDEL', key, hash[f])
        slice = math.floor(now / limit.slice)
        call('HINCRBY', key, slice, count)
      end
      if (slice + 1) * limit.slice + limit.window <= now then
        call('HDEL', key, hash[f])
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
      return answer('refused', i, ends - now)
    end
    limit.left = limit.limit - used - 1
  elseif limit.kind == 'parallel' then
    call('ZREMRANGEBYSCORE', key, '-inf', now)
    local count = call('ZCARD', key)
    if count >= limit.limit then return answer('refused', i, 0) end
    limit.left = limit.limit - count - 1
  else
    local used, spent = 0, 0
    if limit.kind == 'day' then
      local count = call('GET', key)
      limit.is_new, used = not count, tonumber(count or '0')
      spent = used
    else
      used = tonumber(call('HGET', key, 'used') or '0')
      spent = used
      local hash = call('HGETALL', limit.held_key)
      for f = 1, #hash, 2 do
        local until_, amount = string.match(hash[f + 1], '^(%d+):(%d+)$')
        if tonumber(until_) <= now then
          call('HDEL', limit.held_key, hash[f])
        else
          used = used + tonumber(amount)
        end
      end
    end
    -- Another period than the one that was asked about: it is asked again before it is refused.
    if now < limit.begins then return answer('period', now) end
    if used >= limit.limit and now < limit.ends then
      -- What is only reserved is free once the requests that reserve it have ended.
      return answer('refused', i, spent >= limit.limit and limit.ends - now or 0)
    end
    limit.held = math.min(limit.add, limit.limit - used)
    limit.left = limit.limit - used - limit.held
  end
end

local at, binding = now, 0
if waits then
  repeat
    local before = at
    for i, limit in ipairs(limits) do
      local earliest = at
      if limit.kind == 'window' then
        at = room(limit.plan, limit, at)
      elseif limit.kind == 'tokens' then
        at = token_room(limit.plan, limit, at)
      end
      if at > earliest then binding = i end
    end
  until at == before
end
if at - now > most_wait then return answer('refused', binding, at - now) end
for _, limit in ipairs(limits) do
  if limit.ends and at >= limit.ends then return answer('period', at) end
end

local numbers = { at }
local function say(number) numbers[#numbers + 1] = number end
for _, limit in ipairs(limits) do
  local key, kind = limit.key, limit.kind
  if kind == 'window' then
    local plan, later = limit.plan, nil
    if plan.list then
      for n = #plan.list, 1, -1 do
        if plan.list[n] <= at then break end
        later = plan.list[n]
      end
    end
    if later then call('LINSERT', key, 'BEFORE', later, at) else call('RPUSH', key, at) end
    local last = math.max(at, plan.last)
    call('PEXPIRE', key, last - now + 2 * limit.window)
    say(math.max(0, limit.limit - plan.count - 1))
    say(last)
    say(math.min(at, plan.first))
  elseif kind == 'tokens' then
    local sum = limit.add
    for _, amount in pairs(limit.plan) do sum = sum + amount end
    call('HINCRBY', key, math.floor(at / limit.slice), limit.add)
    call('PEXPIRE', key, at - now + 2 * limit.window)
    say(math.max(0, limit.limit - sum))
  elseif kind == 'quota' then
    call('HINCRBY', key, math.floor(at / limit.slice), 1)
    call('PEXPIRE', key, at - now + 2 * limit.window)
    say(limit.left)
  elseif kind == 'parallel' then
    call('ZADD', key, at + hold, id)
    call('PEXPIRE', key, at - now + hold)
    say(limit.left)
  elseif kind == 'day' then
    call('INCRBY', key, limit.held)
    say(limit.left)
    -- Its end is the same for all who count in it.
    if limit.is_new then call('PEXPIRE', key, limit.ends - now + DAY) end
  else
    call('HSET', limit.held_key, id, string.format('%.0f:%.0f', at + hold, limit.held))
    call('PEXPIRE', limit.held_key, at - now + hold)
    say(limit.left)
    say(limit.held)
  end
end
if asker ~= '' then call('HSET', KEYS[3], asker, now) end
return answer('go', unpack(numbers))
