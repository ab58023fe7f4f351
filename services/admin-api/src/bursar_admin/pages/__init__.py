"""The web pages: thin handlers that read what they show from the REST API and render it.

A page is a shell (rail, top bar, skeletons) and fragments that htmx loads into it. ``frame`` renders both, ``api`` asks
the REST API in this process, ``numbers`` and ``spans`` say amounts and times as people do.
"""
