"""One module for each verb of the task API. Model imports one when its verb is first called."""
