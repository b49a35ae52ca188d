"""What happens inside Redis at one stroke. For Redis 6.2 and newer.

A script that fails is not rolled back, so each one meets every key of a wrong type, and the refusal to write (out of
memory, read only), before or at its first write.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha1

Command = tuple[str | bytes | int, ...]


@dataclass(frozen=True, slots=True)
class Script:
    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", sha1(self.text.encode(), usedforsecurity=False).hexdigest())

    def call(self, keys: tuple[str, ...], *arguments: str | bytes | int) -> Command:
        return ("EVALSHA", self.sha, len(keys), *keys, *arguments)


READ = Script("""
local history, seen, events = unpack(KEYS)
local last = redis.call('ZRANGE', events, -1, -1, 'WITHSCORES')
return {
  last[2] or '0',
  table.concat(redis.call('ZRANGE', history, 0, -1), '\\n'),
  table.concat(redis.call('ZRANGE', seen, 0, -1), '\\n'),
}
""")
"""The version; the history, arrival and item in turn; the seen items. One a line, as no id holds a control character:
a string is read faster than a thousand of them."""

APPEND = Script("""
local history, seen, events, sessions = unpack(KEYS)
local max_history, max_seen, max_events, ttl, now, link_ttl, links = unpack(ARGV, 1, 7)
for _, key in ipairs({history, seen, sessions}) do redis.call('ZCARD', key) end
local last = redis.call('ZRANGE', events, -1, -1, 'WITHSCORES')
local version = tonumber(last[2] or 0)
local accepted = {}
for at = 8 + links, #ARGV, 4 do
  local event, item, kind, timestamp = unpack(ARGV, at, at + 3)
  local fresh = not redis.call('ZSCORE', events, event)
  if fresh then
    version = version + 1
    redis.call('ZADD', events, string.format('%.0f', version), event)
    if kind == 'dismissal' then
      redis.call('ZADD', seen, 'GT', timestamp, item)
    else
      redis.call('ZADD', history, timestamp, string.format('%014x\\n', version) .. item)
    end
  end
  accepted[#accepted + 1] = fresh and '1' or '0'
end
local extra = redis.call('ZCARD', history) - max_history
if extra > 0 then
  local out = redis.call('ZPOPMIN', history, extra)
  for at = 1, #out, 2 do
    redis.call('ZADD', seen, 'GT', out[at + 1], string.sub(out[at], 16))
  end
end
redis.call('ZREMRANGEBYRANK', seen, 0, -1 - max_seen)
redis.call('ZREMRANGEBYRANK', events, 0, -1 - max_events)
if tonumber(links) > 0 then
  for at = 8, 7 + links do redis.call('ZADD', sessions, now, ARGV[at]) end
  redis.call('ZREMRANGEBYSCORE', sessions, '-inf', now - link_ttl)
  redis.call('PEXPIRE', sessions, link_ttl)
end
if tonumber(ttl) > 0 then
  for _, key in ipairs({history, seen, events}) do redis.call('PEXPIRE', key, ttl) end
end
return {string.format('%.0f', version), table.concat(accepted)}
""")

SET_ITEM = Script("""
local items, changed = unpack(KEYS)
local item, state, bound, kept, first = unpack(ARGV)
redis.call('ZCARD', changed)
local version = redis.call('HGET', items, '')
if state ~= '' and redis.call('HEXISTS', items, item) == 0
    and redis.call('HLEN', items) - (version and 1 or 0) >= tonumber(bound) then
  return false
end
version = string.format('%.0f', version and version + 1 or first)
redis.call('HSET', items, '', version)
if state == '' then
  redis.call('HDEL', items, item)
else
  redis.call('HSET', items, item, state)
end
redis.call('ZADD', changed, version, item)
redis.call('ZREMRANGEBYRANK', changed, 0, -1 - kept)
return version
""")

ITEMS = Script("""
local items, changed = unpack(KEYS)
local known = tonumber(ARGV[1])
local version = tonumber(redis.call('HGET', items, '') or 0)
local oldest = redis.call('ZRANGE', changed, 0, 0, 'WITHSCORES')
if known > 0 and known <= version and oldest[2] and known >= oldest[2] - 1 then
  local since = redis.call('ZRANGEBYSCORE', changed, known + 1, '+inf')
  local found = {}
  for at, item in ipairs(since) do
    found[2 * at - 1] = item
    found[2 * at] = redis.call('HGET', items, item) or ''
  end
  return {string.format('%.0f', version), 'some', found}
end
return {string.format('%.0f', version), 'all', redis.call('HGETALL', items)}
""")
"""All of them, or those that changed since the known version where the changes reach back so far; an empty state is
the default one."""

TEXTS = {script.sha: script.text for script in (READ, APPEND, SET_ITEM, ITEMS)}
