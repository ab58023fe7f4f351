.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14


.PHONY: bench
bench: ## Measure against the references, write bench/results/ and docs/figures.md (up to 12 minutes)
	.venv/bin/python bench/run.py $(BENCH_ARGS)
