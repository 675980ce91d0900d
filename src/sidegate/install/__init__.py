"""Sidegate on a machine for good, and off it again without a trace.

What an installation consists of is pure data (`plan`): every file with its content and mode, every link. What has to
be done about it is pure too (`steps`): plan × what is there now × what an earlier install noted. Only `disk` and
`machine` touch anything; below `--root` the machine is left alone altogether.

The laws:

1. Before the first change the manifest says what is about to be made, so that `uninstall` removes it from wherever
   the power went. A second install changes nothing.
2. A file that we did not make is never overwritten; a configuration that a person changed is never touched.
3. The program lies in /opt/sidegate/releases/ID, ID being a digest of all its content; `current` points to one of them.
   It is switched when the new release is complete and on the disk: an upgrade is the old program or the new one.
4. The program is a copy of what runs now: this package and the packages that it needs, as they were tested, byte by
   byte. Nothing is downloaded. Only Python itself stays the system's.

This room knows the command line only as something to describe (man pages, completion), and the gateway only to end it.
"""
