"""``meshctl demo``: a whole mesh on one machine, and a walk through what it does.

`places` chooses a folder, addresses and ports; `files` writes what an operator
would write; `processes` runs the same daemons that hosts run; `mesh` brings them
up; `story` is the walk, `traffic` the table of who talks to whom, `screen` what a
person sees.  Nothing in the daemons knows that it is a demo.
"""
