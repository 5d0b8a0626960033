"""Sources of face data sets: RecordIO sets, image folders, list files."""
