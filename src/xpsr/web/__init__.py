"""Pictures restored for others, over HTTP: jobs and who works on them, the API, and a page for people.

`jobs`, `spool`, `turns`, `scheduler` and `hands` need no library beyond those of xpsr; `process` is what works, in a
process of its own. `api` and what it stands on need FastAPI, and only `app` starts a server.
"""
