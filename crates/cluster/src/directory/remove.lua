-- Removes the record of a node that exits.
--
-- KEYS[1]  the hash of renew.lua
-- ARGV     tag, instance as it stands in the record, the number that the caller knows

local value = redis.call('HGET', KEYS[1], ARGV[1])
if value and string.find(value, ' id=' .. ARGV[2] .. ' ', 1, true) then
    redis.call('HDEL', KEYS[1], ARGV[1])
    local number = math.max(tonumber(redis.call('HGET', KEYS[1], '#number') or '0') or 0, tonumber(ARGV[3])) + 1
    number = math.min(number, 2 ^ 53 - 1)
    redis.call('HSET', KEYS[1], '#number', string.format('%.0f', number))
end
return 1
