-- Every request differs: its path, its query and three of its headers.
local n = 0
request = function()
  n = n + 1
  wrk.headers["User-Agent"] = "vary/" .. (n % 7)
  wrk.headers["X-Item"] = "item-" .. n
  wrk.headers["Traceparent"] = string.format("00-%032x-%016x-00", n + 1, n + 1)
  return wrk.format("GET", "/items/" .. n .. "?page=" .. (n % 97))
end
