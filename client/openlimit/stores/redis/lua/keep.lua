-- Writes what has changed of the line and its tree.

local function write_fields(where, of, changed_, pack)
  local fields_, gone_ = {}, {}
  for name in pairs(changed_) do
    local value = of[name]
    if value then
      fields_[#fields_ + 1], fields_[#fields_ + 2] = name, pack(value)
    else
      gone_[#gone_ + 1] = name
    end
  end
  send_all('HDEL', where, gone_)
  send_all('HSET', where, fields_)
  return #fields_ > 0
end

flush_ready()
for _, what in ipairs({'places', 'ready', 'lapsing', 'holds', 'emptying', 'deadlines', 'ends', 'of',
                       'outbox'}) do
  if fresh[what] or gone[what] then
    flush(what)
  end
end

touched.calls = write_fields(key_of('calls'), waiting, changed_calls, function(r)
  return cmsgpack.pack(r.leaf, r.first, r.deadline, r.costs, r.lease, r.delayed_by, r.server, r.lot,
                       r.number, r.kept, r.out)
end)
touched.servers = write_fields(key_of('servers'), servers, changed_servers, function(r)
  return cmsgpack.pack(r.sign, r.loss)
end)
touched.leases = write_fields(key_of('leases'), leases, changed_leases, function(r)
  return cmsgpack.pack(r.ends_at, r.groups)
end)

write_remembered()

local fresh_nodes = {}
for id, node in pairs(nodes) do
  local packed = node and pack_node(node)
  if packed and packed ~= node.packed then
    fresh_nodes[#fresh_nodes + 1], fresh_nodes[#fresh_nodes + 2] = 'n:' .. id, packed
  end
end
for digest, change in pairs(followers) do
  if change ~= 0 then
    local count = redis.call('HINCRBY', tree_key, 'u:' .. digest, change)
    if count == 0 then
      dropped[#dropped + 1], dropped[#dropped + 2] = 'u:' .. digest, 'r:' .. digest
    elseif count == change then
      local rules = known_rules[digest]
      fresh_nodes[#fresh_nodes + 1] = 'r:' .. digest
      fresh_nodes[#fresh_nodes + 1] =
        cmsgpack.pack(rules.weight, rules.slots == INF and -1 or rules.slots, rules.limits)
    end
  end
end
send_all('HDEL', tree_key, dropped)

-- How long the tree is kept: until it is as good as new. While calls wait, as long as it takes to
-- forget the last of them after their servers have died. What is written anew expires with the rest.
local needed = math.max(root.empty_at, idle_at(root), now + 4 * call.silent)
if own_clock then
  needed = math.max(needed, latest_end)
  if needed > meta.until_ then
    meta.until_, touched.tree = needed + 4 * call.silent, true
    for _, what in ipairs(BESIDE) do
      touched[what] = true
    end
  end
end
fresh_nodes[#fresh_nodes + 1] = 'meta'
fresh_nodes[#fresh_nodes + 1] = cmsgpack.pack(meta.order, meta.epoch, now, shift, meta.leases,
                                              meta.boxed, meta.until_, meta.asked, meta.many,
                                              meta.latest_until, meta.before_until, meta.granted_until, heads)
send_all('HSET', tree_key, fresh_nodes)
if own_clock then
  for what, is_fresh in pairs(touched) do
    if is_fresh then
      local until_ = meta.until_ + (what == 'tree' and 0 or call.silent)  -- never before the tree
      redis.call('PEXPIRE', key_of(what), milliseconds_until(until_))
    end
  end
end
