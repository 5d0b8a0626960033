"""The commands of `facex`: one module each, `main(argv) -> exit code`."""
