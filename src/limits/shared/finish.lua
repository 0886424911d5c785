-- Ends a request that was admitted, once by its id: settled with what it used, or given back as if it had never been.
--
-- KEYS  1 mark of the id, then one for each limit, of `spend` another one for what is held
-- ARGV  1 id, 2 when it was sent, then six for each limit: its kind, its slice (ms), what the request added, 1 if that is
--         to be undone, what it used, and ms until its period ends
local call = redis.call
local id, at = ARGV[1], tonumber(ARGV[2])
local DAY = 86400000
if not call('SET', KEYS[1], '1', 'NX', 'PX', 3600000) then return 0 end
local used_keys = 1
for a = 3, #ARGV, 6 do
  used_keys = used_keys + 1
  local key, kind, undo = KEYS[used_keys], ARGV[a], ARGV[a + 3] == '1'
  local slice, added, used = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2]), tonumber(ARGV[a + 4])
  if kind == 'window' then
    if undo then call('LREM', key, -1, ARGV[2]) end
  elseif kind == 'tokens' then
    local number = math.floor(at / slice)
    -- A slice that no longer counts is gone, and stays so.
    if call('HEXISTS', key, number) == 1 then call('HINCRBY', key, number, (undo and 0 or used) - added) end
  elseif kind == 'quota' then
    local number = math.floor(at / slice)
    if undo and call('HEXISTS', key, number) == 1 then call('HINCRBY', key, number, -1) end
  elseif kind == 'parallel' then
    call('ZREM', key, id)
  elseif kind == 'day' then
    if undo and call('EXISTS', key) == 1 then call('DECRBY', key, 1) end
  else
    used_keys = used_keys + 1
    call('HDEL', KEYS[used_keys], id)
    -- Less than nothing where what was reserved is counted as used: admitted while the server was away, or before it was
    -- emptied.
    if used ~= 0 then
      call('HINCRBY', key, 'used', used)
      call('PEXPIRE', key, tonumber(ARGV[a + 5]) + DAY)
    end
  end
end
return 1
