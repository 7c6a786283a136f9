"""The wire: everything that another program may rely on, and nothing else.

Law: this package imports pydantic and the standard library only. The service is written against it, never the
other way round; a change here is a change for programs that nobody in this repository has seen.
"""
