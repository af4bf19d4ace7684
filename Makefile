# filled in by .ci/environment's author
