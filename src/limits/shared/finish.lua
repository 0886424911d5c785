-- Ends a request that was admitted, once by its id: settled with what it used, or given back as if it had never been.
--
-- KEYS  1 mark of the id, then those that the limits name by their index
-- ARGV  1 what is said, as JSON: id, at, limits, each with whether it is to be undone
local ask = cjson.decode(ARGV[1])
local DAY = 86400000
if not redis.call('SET', KEYS[1], '1', 'NX', 'PX', 3600000) then return 0 end
for _, limit in ipairs(ask.limits) do
  local key = KEYS[limit.key]
  if limit.kind == 'window' then
    if limit.undo then redis.call('LREM', key, -1, ask.at) end
  elseif limit.kind == 'tokens' then
    local slice = math.floor(ask.at / limit.slice)
    local used = limit.undo and 0 or limit.used
    -- A slice that no longer counts is gone, and stays so.
    if redis.call('HEXISTS', key, slice) == 1 then redis.call('HINCRBY', key, slice, used - limit.add) end
  elseif limit.kind == 'quota' then
    local slice = math.floor(ask.at / limit.slice)
    if limit.undo and redis.call('HEXISTS', key, slice) == 1 then redis.call('HINCRBY', key, slice, -1) end
  elseif limit.kind == 'parallel' then
    redis.call('ZREM', key, ask.id)
  elseif limit.kind == 'day' then
    if limit.undo and redis.call('EXISTS', key) == 1 then redis.call('DECRBY', key, 1) end
  else
    redis.call('HDEL', KEYS[limit.held], ask.id)
    -- Less than nothing where what was reserved is counted as used: admitted while the server was away, or before it was
    -- emptied.
    if limit.used ~= 0 then
      redis.call('HINCRBY', key, 'used', limit.used)
      redis.call('PEXPIRE', key, limit.keep + DAY)
    end
  end
end
return 1
