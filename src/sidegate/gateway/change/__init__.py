"""Changes that undo themselves, and the configuration's versions.

`pending` is a change that waits for `sidegate confirm`, `timer` the process that waits with it, `rollback` what happens
when nobody confirms. `history` keeps the versions of the configuration, `diff` says what another one would change.
"""
