"""In which processes and machines a training runs."""
