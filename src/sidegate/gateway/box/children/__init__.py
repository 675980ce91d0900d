"""Programs that run beside the daemon and outlive it: started, adopted, started again when they end, stopped by `down`.

What to do is decided by `schedule.next_steps`, from what should run and what does; `Nursery` does it, for the daemon's
loop, and `process` knows one child's process.

A child writes its own record (process id and start time) before it becomes the program, so a daemon that is killed at
any moment leaves no child that the next one, or `down`, could not find; that moment is guarded by a lock that the child
inherits and that the kernel drops when the program begins. The journal names the child before anything of it exists.
"""

from sidegate.gateway.box.children.nursery import Nursery as Nursery
from sidegate.gateway.box.children.process import end_child as end_child
from sidegate.gateway.box.children.schedule import Child as Child
from sidegate.gateway.box.children.schedule import ChildFile as ChildFile
