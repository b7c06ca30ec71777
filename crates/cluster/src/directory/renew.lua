-- Renews the record of one node in the directory, removes those that have expired, and returns all. The clock is the engine's.
--
-- KEYS[1]  a hash. A field for each node: its tag, with "EXPIRY RECORD", EXPIRY in milliseconds of the engine's clock. And:
--          #number  the number of the list, which grows at each change of a record
--          #ran     when this script ran last
--          #born    since when the hash exists; moves with the clock and with gaps
-- ARGV     tag, instance as it stands in the record, record, life, gap (both in milliseconds),
--          the number that the caller knows, most fields, most bytes of a value, 1 to replace a record that is not the caller's,
--          tags of nodes that the caller has heard over links: their records do not expire, so that a node that is cut off from the engine
--          alone stays in the list
-- Returns  age in milliseconds, number before, number, 1 if the tag has a record that is not the caller's, tag, record, tag, record, …

local key, tag, instance, record = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local life, gap, known = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local most_fields, most_bytes, replace = tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9] == '1'

local heard = {}
for at = 10, #ARGV do
    heard[ARGV[at]] = true
end

local fields = redis.call('HLEN', key)
if fields > most_fields then
    return redis.error_reply('TOOMANY ' .. key .. ' has ' .. fields .. ' fields: delete it, and the nodes write it again')
end

local function write(field, value)
    redis.call('HSET', key, field, value)
end
-- Lua would write 1.7e+15.
local function digits(number)
    return string.format('%.0f', number)
end
-- Who can write to the engine can set the number to this. Then it does not change any more, and nodes go by the records alone.
local most_number = 2 ^ 53 - 1
local function integer(text)
    local number = tonumber(text)
    return number and number >= 0 and number <= most_number and math.floor(number) or nil
end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local meta, nodes = {}, {}
local hash = redis.call('HGETALL', key)
for at = 1, #hash, 2 do
    if string.sub(hash[at], 1, 1) == '#' then
        meta[hash[at]] = integer(hash[at + 1])
    else
        nodes[hash[at]] = hash[at + 1]
    end
end

-- The engine was down, or its clock was set: that is no node's fault.
local shift = now - (meta['#ran'] or now)
if shift >= 0 and shift <= gap then
    shift = 0
end

local before = meta['#number'] or 0
local number, changed = before, false
if known > number then
    -- The engine has lost changes. The list that had this number is another one.
    number, changed = known, true
end

local taken, found, listed = 0, false, {}
for field, value in pairs(nodes) do
    local expiry, rest = string.match(value, '^(%d+) (.+)$')
    expiry = expiry and #value <= most_bytes and math.min(tonumber(expiry) + shift, now + life)
    local own = field == tag and rest and string.find(rest, ' id=' .. instance .. ' ', 1, true)
    if not expiry or (expiry <= now and not own) then
        redis.call('HDEL', key, field)
        changed = true
    elseif field == tag and (own or replace) then
        found = rest == record
    else
        if field == tag then
            taken = 1
        end
        local renews = heard[field] and expiry < now + life / 2
        if shift ~= 0 or renews then
            write(field, digits(renews and now + life or expiry) .. ' ' .. rest)
        end
        listed[#listed + 1] = field
        listed[#listed + 1] = rest
    end
end

if taken == 0 then
    write(tag, digits(now + life) .. ' ' .. record)
    listed[#listed + 1] = tag
    listed[#listed + 1] = record
    changed = changed or not found
end
if changed then
    number = math.min(number + 1, most_number)
    write('#number', digits(number))
end
write('#ran', digits(now))
local born = math.min((meta['#born'] or now) + shift, now)
if born ~= meta['#born'] then
    write('#born', digits(born))
end

local reply = {digits(now - born), digits(before), digits(number), digits(taken)}
for at = 1, #listed do
    reply[at + 4] = listed[at]
end
return reply
