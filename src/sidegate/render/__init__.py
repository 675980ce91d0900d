"""Pictures and texts of what the other rooms know: Mermaid, SVG, the demo's report, tables for the terminal.

Pure: data in, text out. No file is read, nothing is measured and nothing is printed here. Whatever text comes in may be
hostile; what goes out is escaped for where it goes.
"""
