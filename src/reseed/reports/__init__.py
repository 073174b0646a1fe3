"""Reports for people: the experiment log, the result table of the README, the plots as pictures."""
