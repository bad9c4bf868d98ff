"""The nouns of the cluster: for each its random commands, and its part of the plain model.

A noun is a module with a function that draws a command (see ``plan``) and a class of facts (see ``model``); where there
is much of it, ``submissions`` draws what ``workloads`` and ``charges`` take.
"""
