"""Runners of the LAFS goldens, by kind; each translates a case into calls of the classes that training uses."""
