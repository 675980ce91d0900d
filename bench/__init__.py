"""Every figure of the README and of the changelog comes from here: `make bench`.

Each measurement returns figures with their bars; `__main__` runs them, prints a table and writes a JSON file. Nothing
here is a test: machines differ, and a figure below its bar is a finding, not a failure of the suite.
"""
