"""`tttscale doctor`: what is wrong with this machine, this installation or this job, and what to do."""
