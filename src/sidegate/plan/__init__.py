"""The plan: every way to deploy a bypass gateway beside a given router, what each leads to, and which to take.

`questions` turns a router profile and a person's answers into what is known; `predict` asks the walk what happens to
every kind of client; `ways` says what each way needs, `steps` what to do, `breaks` what it costs; `rank` puts them in
order, each point with its reason; `making` joins them to a Plan; `config_text` writes the configuration of a chosen
way. Pure: no I/O. What is not known stays unknown: it becomes a question, and both cases are predicted.
"""
