"""The repository: documentation that runs, the build, benchmarks, the design."""
