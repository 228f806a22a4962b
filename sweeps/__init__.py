"""The command line: checks a request, launches the sweep on Ray, shows it, resumes it, reports it."""
