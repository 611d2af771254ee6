-- wrk's request: a small chat, with sessions in turn. The last line is for scripts/bench-proxy.
local body = '{"model":"bench","messages":[{"role":"user","content":"Why does water find its level?"}],'
   .. '"max_tokens":16,"stream":false}'
local requests = {}

function init()
   for session = 1, 64 do
      requests[session] = wrk.format("POST", "/v1/chat/completions", {
         ["content-type"] = "application/json",
         ["authorization"] = "Bearer sk-bench",
         ["x-session-id"] = "s" .. session,
      }, body)
   end
end

local turn = 0

function request()
   turn = turn % 64 + 1
   return requests[turn]
end

function done(summary)
   local errors = summary.errors
   local failures = errors.connect + errors.read + errors.write + errors.status + errors.timeout
   io.write(string.format("figures %d %d %d\n", summary.requests, summary.duration, failures))
end
