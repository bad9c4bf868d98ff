-- What wrk sends and says for tests/bench/load.py: a body in the variable BODY makes the request a POST.
local body = os.getenv("BODY")
if body then
    wrk.method = "POST"
    wrk.body = body
    wrk.headers["Content-Type"] = "application/json"
end

function done(summary, latency, requests)
    local errors = summary.errors
    local wrong = errors.connect + errors.read + errors.write + errors.status + errors.timeout
    io.write(string.format(
        '\n{"requests":%d,"per_s":%.1f,"wrong":%d,"p50_ms":%.4f,"p99_ms":%.4f}\n',
        summary.requests, summary.requests / summary.duration * 1e6, wrong,
        latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
