"""The demonstration: the article's home on a real kernel, before Sidegate and with it.

`result` is what was found, as plain data; `sidegate.render.report` shows it to a person.
"""
