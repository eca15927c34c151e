-- Sends the requests of a file (each followed by a zero byte) in turn; prints the outcome as JSON.
-- The global variables are read by `done`, which runs outside the thread that sets them.
local requests, turn, sender = {}, 0, nil

function setup(thread)
  sender = thread
end

function init(arguments)
  errors, first_error = 0, ""
  for request in io.open(arguments[1], "rb"):read("*a"):gmatch("(%Z+)%z") do
    requests[#requests + 1] = request
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function response(status, headers, body)
  if status ~= 200 or body:find('"blocked"', 1, true) then
    errors = errors + 1
    first_error = status .. " " .. body
  end
end

function done(summary, latency)
  local lost = summary.errors.connect + summary.errors.read + summary.errors.write
    + summary.errors.timeout
  print(string.format(
    '{"completed":%d,"errors":%d,"seconds":%f,"p50_ms":%f,"p95_ms":%f,"p99_ms":%f,'
      .. '"p999_ms":%f,"highest_ms":%f,"first_error":%q}',
    summary.requests, sender:get("errors") + lost, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3,
    latency:percentile(99.9) / 1e3, latency.max / 1e3, sender:get("first_error")
  ))
end
