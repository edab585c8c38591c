"""A few traced steps of a job: the overlap report, its page, and what to change."""
