"""Bookinfo: four small HTTP services that know nothing of the mesh they run in.

productpage calls details and reviews; reviews v2 and v3 call ratings.  Each is a
pure function from `web.Request` to `web.Reply`; `web.serve` puts it on a socket.
What an application does for a mesh is here too, and it is one line: it passes on
the headers that arrive (`client.FORWARDED`).
"""
