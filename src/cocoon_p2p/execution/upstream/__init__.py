"""The engine `upstream`: a cluster that this provider runs already (Triton, KServe, vLLM, Ray Serve …), reached over HTTP.

Nothing of a model is here, so its manifest names no files: it says what the operator claims to serve, and the id is the
hash of that. The operator's other machines read the inputs, so such a model is served in tier open only.
"""
